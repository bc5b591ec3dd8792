//! Names of signals, as Docker accepts them.

/// Names without `SIG`, apart from the real-time ones.
const NAMES: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "UNUSED",
];
/// Highest signal of Linux.
const HIGHEST: u32 = 64;

/// Canonical spelling of a signal: `SIGTERM` for `term`, `TERM` and `SIGTERM`; a number stays one.
pub fn parse(text: &str) -> Option<String> {
    if let Ok(number) = text.parse::<u32>() {
        let plain = number.to_string() == text;
        return (plain && (1..=HIGHEST).contains(&number)).then(|| text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    (NAMES.contains(&name) || is_real_time(name)).then(|| format!("SIG{name}"))
}

/// `RTMIN`, `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX-1`, `RTMAX`.
fn is_real_time(name: &str) -> bool {
    let offset = |text: &str, highest: u32| {
        text.parse::<u32>()
            .is_ok_and(|n| (1..=highest).contains(&n) && n.to_string() == text)
    };
    match name.strip_prefix("RTM") {
        Some("IN" | "AX") => true,
        Some(rest) => {
            rest.strip_prefix("IN+").is_some_and(|n| offset(n, 15))
                || rest.strip_prefix("AX-").is_some_and(|n| offset(n, 14))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each() {
        for (text, signal) in [
            ("SIGTERM", Some("SIGTERM")),
            ("term", Some("SIGTERM")),
            ("15", Some("15")),
            ("64", Some("64")),
            ("RTMIN+3", Some("SIGRTMIN+3")),
            ("SIGRTMAX-14", Some("SIGRTMAX-14")),
            ("0", None),
            ("65", None),
            ("015", None),
            ("-9", None),
            ("", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("RTMIN+16", None),
            ("SIGTERM ", None),
        ] {
            assert_eq!(parse(text).as_deref(), signal, "{text}");
        }
    }
}
