//! The fields of a request, from its body and its query, read as Go reads them.
//!
//! Pure. A field of the body wins over one of the query. Values are bytes:
//! etcd stores what it is given.

use super::path::decode;

/// Hint about a form body that is not URL-encoded.
pub const HINT: &str = "the form body was not URL-encoded, so `&` and `;` cut it short and `+` and `%` were changed: send it with curl's --data-urlencode";

/// The fields of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, Vec<u8>)>);

impl Form {
    /// Reads a form-encoded body, if there is one, and the query. `Err` is the cause.
    pub fn parse(body: Option<&[u8]>, query: Option<&str>) -> Result<Self, String> {
        let mut fields = Vec::new();
        let body = body.map(String::from_utf8_lossy).unwrap_or_default();
        let in_body = read(&body, &mut fields);
        let in_query = read(query.unwrap_or_default(), &mut fields);
        in_body.and(in_query).map(|()| Self(fields))
    }

    /// The first value of a field; none if it is not there at all.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_slice())
    }
}

/// Adds all fields of `text`; the first error is returned after all of it is read.
fn read(text: &str, fields: &mut Vec<(String, Vec<u8>)>) -> Result<(), String> {
    let mut result = Ok(());
    for field in text.split('&').filter(|field| !field.is_empty()) {
        if field.contains(';') {
            result = result.and(Err("invalid semicolon separator in query".to_owned()));
            continue;
        }
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        match (decode(name, true), decode(value, true)) {
            (Ok(name), Ok(value)) => {
                fields.push((String::from_utf8_lossy(&name).into_owned(), value));
            }
            (Err(escape), _) | (_, Err(escape)) => {
                result = result.and(Err(format!("invalid URL escape {escape:?}")));
            }
        }
    }
    result
}

/// A body that was put together by hand and holds what a form reads as its own signs.
pub fn looks_unencoded(body: &[u8]) -> bool {
    let has = |sign: u8| body.contains(&sign);
    (has(b'{') || has(b'"') || has(b' ')) && [b'&', b';', b'+', b'%'].into_iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(body: &str, query: &str, name: &str) -> Option<String> {
        let form = Form::parse(Some(body.as_bytes()), Some(query)).expect("a form");
        form.get(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn the_body_wins_over_the_query() {
        assert_eq!(get("value=b", "value=q", "value").as_deref(), Some("b"));
        assert_eq!(get("", "value=q", "value").as_deref(), Some("q"));
        assert_eq!(get("value", "", "value").as_deref(), Some(""));
        assert_eq!(get("a=1&a=2", "", "a").as_deref(), Some("1"));
        assert_eq!(get("a=1", "", "value"), None);
        assert_eq!(
            get("value=a%20b+c%3D&x=1", "", "value").as_deref(),
            Some("a b c=")
        );
    }

    #[test]
    fn bad_escapes_and_semicolons_are_errors() {
        let parse = |text: &str| Form::parse(Some(text.as_bytes()), None);
        assert_eq!(
            parse("value=50%zz"),
            Err("invalid URL escape \"%zz\"".to_owned())
        );
        assert_eq!(
            parse("value=a;b=1"),
            Err("invalid semicolon separator in query".to_owned())
        );
        assert!(Form::parse(None, Some("wait=%")).is_err());
    }

    #[test]
    fn a_body_typed_by_hand_is_told_from_an_encoded_one() {
        assert!(looks_unencoded(
            br#"value={"image":"a","command":["a&&b"]}"#
        ));
        assert!(!looks_unencoded(br#"value={"image":"a"}"#));
        assert!(!looks_unencoded(
            b"value=%7B%22image%22%3A%22a%22%7D&prevExist=true"
        ));
    }
}
