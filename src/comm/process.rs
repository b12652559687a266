//! What Linux tells of a process; of others nothing is known.

/// State and start, in the kernel's ticks; `None`: there is none, or no `/proc`.
pub(super) fn stat(id: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before stands in brackets, and may hold any.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Start of a process that has not ended; one that waits for its parent to ask has.
pub(super) fn start_of_living(id: u32) -> Option<u64> {
    stat(id).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, start)| start)
}
