//! Splitting a string into words as a shell does, with quotes and backslashes and without expansion.

/// Error of splitting a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// `'` without its partner.
    #[error("has an unclosed `'`")]
    OpenSingleQuote,
    /// `"` without its partner.
    #[error("has an unclosed `\"`")]
    OpenDoubleQuote,
    /// A backslash at the end.
    #[error("ends with a backslash")]
    TrailingBackslash,
}

/// The words of `text`.
pub fn split(text: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(SplitError::OpenSingleQuote)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(SplitError::OpenDoubleQuote)? {
                        '"' => break,
                        '\\' => match chars.next().ok_or(SplitError::OpenDoubleQuote)? {
                            '\n' => {}
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next().ok_or(SplitError::TrailingBackslash)? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_a_shell_does() {
        for (text, words) in [
            ("", &[][..]),
            ("  \t\n", &[]),
            ("echo hello  world", &["echo", "hello", "world"]),
            (
                r#"sh -c 'echo "$A" | cat'"#,
                &["sh", "-c", r#"echo "$A" | cat"#],
            ),
            (r#"a"b c"'d e'f"#, &["ab cd ef"]),
            (r#""" ''"#, &["", ""]),
            (r#""a\"b" "a\nb" "\$\`\\""#, &[r#"a"b"#, r"a\nb", r"$`\"]),
            (r"a\ b \#", &["a b", "#"]),
            ("a\\\nb", &["ab"]),
            ("a # b", &["a", "#", "b"]),
            ("größe 'ä ö'", &["größe", "ä ö"]),
        ] {
            assert_eq!(split(text).expect(text), words, "{text}");
        }
    }

    #[test]
    fn unclosed_quotes_are_errors() {
        assert_eq!(split("a 'b"), Err(SplitError::OpenSingleQuote));
        assert_eq!(split("a \"b"), Err(SplitError::OpenDoubleQuote));
        assert_eq!(split("a \"b\\"), Err(SplitError::OpenDoubleQuote));
        assert_eq!(split("a \\"), Err(SplitError::TrailingBackslash));
    }
}
