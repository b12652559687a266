use std::fs;

/// The machine that a rank runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, for people; at most 64 bytes of it are told.
    pub name: String,
    /// Identity of its running kernel, equal in all containers on it; zero if unknown.
    pub boot: [u8; 16],
}

impl Host {
    /// This one.
    pub fn this() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { name: name.unwrap_or_default().trim().to_string(), boot: hex(&boot).unwrap_or_default() }
    }

    /// True if both are one machine: by the kernel where it is known, else by name.
    pub fn is(&self, other: &Self) -> bool {
        if self.boot == [0; 16] || other.boot == [0; 16] {
            return self.name == other.name;
        }
        self.boot == other.boot
    }
}

/// The 16 bytes of an identifier in hexadecimal, dashes between them ignored.
fn hex(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.trim().chars().filter(|&c| c != '-').map(|c| c.to_digit(16)).try_fold(
        Vec::new(),
        |mut digits, digit| {
            digits.push(digit? as u8);
            Some(digits)
        },
    )?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, &digit| byte << 4 | digit)).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{Host, hex};

    #[test]
    fn boot_identifiers_are_read() {
        let bytes = hex("00112233-4455-6677-8899-aabbccddeeff\n");
        assert_eq!(
            bytes,
            Some([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff])
        );
        assert_eq!((hex(""), hex("0011"), hex("zz112233-4455-6677-8899-aabbccddeeff")), (None, None, None));
    }

    #[test]
    fn one_kernel_is_one_host_whatever_its_containers_are_called() {
        let host = |name: &str, boot| Host { name: name.into(), boot: [boot; 16] };
        assert!(host("a", 1).is(&host("b", 1)));
        assert!(!host("a", 1).is(&host("a", 2)));
        assert!(host("a", 0).is(&host("a", 2)));
        assert!(!host("a", 0).is(&host("b", 0)));
    }
}
