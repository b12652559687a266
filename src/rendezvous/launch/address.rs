//! The first host of Slurm's list of nodes.

/// `gpu[03-05,9]-ib,login1` gives `gpu03-ib`.
pub(super) fn first_host(nodes: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = nodes.trim();
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        let (plain, after) = rest.split_at(end);
        host.push_str(plain);
        let Some(range) = after.strip_prefix('[') else { break };
        let (inside, after) = range.split_once(']')?;
        host.push_str(inside.split([',', '-']).next()?);
        rest = after;
    }
    let name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (!host.is_empty() && host.chars().all(name)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::first_host;

    #[test]
    fn the_first_of_a_node_list() {
        for (nodes, first) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("gpu[03-05,9]-ib,login1", "gpu03-ib"),
            ("r[1-2]n[07,09]", "r1n07"),
            ("a.b-c_d", "a.b-c_d"),
        ] {
            assert_eq!(first_host(nodes).as_deref(), Some(first), "{nodes}");
        }
        for nodes in ["", ",", "[", "n[1", "n 1", "n;1"] {
            assert_eq!(first_host(nodes), None, "{nodes}");
        }
    }
}
