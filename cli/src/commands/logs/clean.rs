//! Terminal escapes in container output: colours are kept; what moves the cursor,
//! sets the title or queries the terminal is removed.

/// Ends a line with colours.
const RESET: &str = "\u{1b}[0m";
/// Longest parameters of a colour.
const LONGEST: usize = 32;

/// Tabs and, if wanted, colours are the only control characters left.
pub(super) fn line(text: &str, colours: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut is_coloured = false;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\t' => clean.push(c),
            '\u{1b}' => {
                let mut ahead = rest.clone();
                match ahead.next() {
                    Some('[') => {
                        if let Some(colour) = control_sequence(&mut ahead)
                            && colours
                        {
                            clean.push_str("\u{1b}[");
                            clean.push_str(&colour);
                            clean.push('m');
                            is_coloured = true;
                        }
                        rest = ahead;
                    }
                    // Strings, up to BEL or ESC \\: titles, clipboards, device control.
                    Some(']' | 'P' | 'X' | '^' | '_') => {
                        control_string(&mut ahead);
                        rest = ahead;
                    }
                    // Two or three characters, such as ESC c or ESC ( B.
                    Some(' '..='/') => {
                        ahead.next();
                        rest = ahead;
                    }
                    Some('0'..='~') => rest = ahead,
                    _ => {}
                }
            }
            '\u{9b}' => drop(control_sequence(&mut rest)),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => control_string(&mut rest),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    if is_coloured && !clean.ends_with(RESET) {
        clean.push_str(RESET);
    }
    clean
}

/// Behind `ESC [`, to its end; its parameters if it is a colour.
fn control_sequence(rest: &mut std::str::Chars<'_>) -> Option<String> {
    let mut parameters = String::new();
    loop {
        let mut ahead = rest.clone();
        match ahead.next()? {
            c @ ' '..='?' => parameters.push(c),
            '@'..='~' if !rest.as_str().starts_with('m') => {
                *rest = ahead;
                return None;
            }
            'm' => {
                *rest = ahead;
                let is_colour = parameters.len() <= LONGEST
                    && parameters
                        .chars()
                        .all(|c| c.is_ascii_digit() || c == ';' || c == ':');
                return is_colour.then_some(parameters);
            }
            // Not one: what comes is looked at by itself.
            _ => return None,
        }
        *rest = ahead;
    }
}

/// To its end: BEL, ST, or that of the line.
fn control_string(rest: &mut std::str::Chars<'_>) {
    while let Some(c) = rest.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if rest.as_str().starts_with('\\') => {
                rest.next();
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        for (written, shown) in [
            ("plain \u{e4}\ttext", "plain \u{e4}\ttext"),
            ("\u{1b}]0;owned\u{7}after", "after"),
            ("\u{1b}]52;c;ZXZpbA==\u{1b}\\after", "after"),
            ("\u{1b}]0;no end", ""),
            ("a\u{1b}[2J\u{1b}[H\u{1b}[?25lb", "ab"),
            ("a\u{1b}cb\u{1b}(Bd", "abd"),
            ("a\u{9b}2Jb\u{9d}0;x\u{9c}c", "abc"),
            ("a\u{1b}P1;2|x\u{1b}\\b", "ab"),
            ("10%\r20%\r", "10%20%"),
            ("bell\u{7}\u{8}\u{0}\u{7f}", "bell"),
            ("end\u{1b}", "end"),
            ("end\u{1b}[", "end"),
            ("a\u{1b}[3\u{1b}[2Jb", "ab"),
            ("\u{1b}[>4;1mx", "x"),
        ] {
            assert_eq!(line(written, true), shown, "{written:?}");
        }
    }

    #[test]
    fn colours_stay_and_end_with_their_line() {
        assert_eq!(
            line("\u{1b}[1;31merror\u{1b}[0m: x", true),
            "\u{1b}[1;31merror\u{1b}[0m: x\u{1b}[0m"
        );
        assert_eq!(line("\u{1b}[1;31merror\u{1b}[0m: x", false), "error: x");
        assert_eq!(line("\u{1b}[31merror", true), "\u{1b}[31merror\u{1b}[0m");
        assert_eq!(line("\u{1b}[mx\u{1b}[0m", true), "\u{1b}[mx\u{1b}[0m");
    }
}
