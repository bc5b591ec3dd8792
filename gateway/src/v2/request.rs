//! From the parts of an HTTP request to one operation, or the error that etcd gives.
//!
//! Pure. The order of the checks is etcd's, because a request with two
//! mistakes is answered with the first.

use axum::http::Method;

use super::error::{ErrorCode, V2Error};
use super::form::Form;
use super::path::KeyPath;
use super::ttl::MAX_TTL;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read a key or directory.
    Get(Get),
    /// Wait for events.
    Wait(Wait),
    /// Write the store.
    Write(Write),
}

/// A read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// Its key.
    pub key: KeyPath,
    /// Include all levels below.
    pub recursive: bool,
}

/// A wait for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Its key.
    pub key: KeyPath,
    /// Also keys below it.
    pub recursive: bool,
    /// First index; 0 is from now.
    pub index: u64,
    /// All events, not the first alone.
    pub stream: bool,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its key.
    pub key: KeyPath,
    /// Kind of write.
    pub change: WriteKind,
    /// It ends by itself after so many seconds.
    pub ttl: Option<u64>,
    /// Only the TTL changes, and waits are not told.
    pub refresh: bool,
    /// Answer with the action alone.
    pub no_value: bool,
}

/// Kind of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteKind {
    /// Create or replace it.
    Set(Content),
    /// Create it.
    Create(Content),
    /// Create a key below it, named by the index.
    CreateInOrder(Content),
    /// Replace it.
    Update(Vec<u8>),
    /// Replace it if the condition holds.
    CompareAndSwap(Condition, Vec<u8>),
    /// Delete it.
    Delete {
        /// Also an empty directory.
        dir: bool,
        /// Also a directory with all that is in it.
        recursive: bool,
    },
    /// Delete it if the condition holds.
    CompareAndDelete(Condition),
}

/// What a write makes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file with this value.
    File(Vec<u8>),
    /// A directory.
    Dir,
}

impl Content {
    /// The value of a file.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::File(value) => Some(value),
            Self::Dir => None,
        }
    }
}

/// Condition of a write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its value; empty is no condition.
    pub value: Vec<u8>,
    /// Its modified index; 0 is no condition.
    pub index: u64,
}

impl Condition {
    fn is_none(&self) -> bool {
        self.value.is_empty() && self.index == 0
    }
}

/// The operation that a request asks for. The method is one that the keys know.
pub fn parse(method: &Method, key: KeyPath, form: &Form) -> Result<Operation, V2Error> {
    let prev_index = number(form, "prevIndex")?;
    let wait_index = number(form, "waitIndex")?;
    let recursive = flag(form, "recursive")?;
    // Listings are always sorted: etcd leaves the order of an unsorted one open.
    flag(form, "sorted")?;
    let wait = flag(form, "wait")?;
    let dir = flag(form, "dir")?;
    // A majority stands behind every read here.
    flag(form, "quorum")?;
    let stream = flag(form, "stream")?;
    if wait && *method != Method::GET {
        return Err(invalid("\"wait\" can only be used with GET requests"));
    }
    let prev_value = form.get("prevValue");
    if prev_value.is_some_and(<[u8]>::is_empty) {
        let cause = "\"prevValue\" cannot be empty";
        return Err(V2Error::request(ErrorCode::PrevValueRequired, cause));
    }
    let no_value = flag(form, "noValueOnSuccess")?;
    let ttl = match form.get("ttl") {
        None | Some(b"") => None,
        Some(_) => field(form, "ttl", ErrorCode::TtlNotANumber, true, digits)?,
    };
    if ttl.is_some_and(|ttl| ttl > MAX_TTL) {
        let cause = format!("the ttl is larger than {MAX_TTL}");
        return Err(V2Error::request(ErrorCode::TtlNotANumber, cause));
    }
    let prev_exist = unquoted_flag(form, "prevExist")?;
    let refresh = unquoted_flag(form, "refresh")?.unwrap_or(false);
    let value = form.get("value").unwrap_or_default();
    if refresh && !value.is_empty() {
        let cause = "A value was provided on a refresh";
        return Err(V2Error::request(ErrorCode::RefreshValue, cause));
    }
    if refresh && ttl.is_none() {
        let cause = "No TTL value set";
        return Err(V2Error::request(ErrorCode::RefreshTtlRequired, cause));
    }

    let condition = Condition {
        value: prev_value.unwrap_or_default().to_vec(),
        index: prev_index,
    };
    if *method == Method::DELETE {
        let change = if condition.is_none() {
            WriteKind::Delete { dir, recursive }
        } else {
            WriteKind::CompareAndDelete(condition)
        };
        return Ok(Operation::Write(Write {
            key,
            change,
            ttl: None,
            refresh: false,
            no_value: false,
        }));
    }
    if *method == Method::PUT || *method == Method::POST {
        let value = value.to_vec();
        let content = |value| {
            if dir {
                Content::Dir
            } else {
                Content::File(value)
            }
        };
        let change = match prev_exist {
            _ if *method == Method::POST => WriteKind::CreateInOrder(content(value)),
            Some(false) => WriteKind::Create(content(value)),
            Some(true) if condition.is_none() => WriteKind::Update(value),
            None if condition.is_none() => WriteKind::Set(content(value)),
            _ => WriteKind::CompareAndSwap(condition, value),
        };
        return Ok(Operation::Write(Write {
            key,
            change,
            ttl,
            refresh,
            no_value,
        }));
    }
    if wait {
        return Ok(Operation::Wait(Wait {
            key,
            recursive,
            index: wait_index,
            stream,
        }));
    }
    Ok(Operation::Get(Get { key, recursive }))
}

fn invalid(cause: impl Into<String>) -> V2Error {
    V2Error::request(ErrorCode::InvalidField, cause)
}

/// A number as Go reads it: digits, nothing else.
fn digits(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn number(form: &Form, name: &str) -> Result<u64, V2Error> {
    let code = ErrorCode::IndexNotANumber;
    Ok(field(form, name, code, true, digits)?.unwrap_or(0))
}

fn flag(form: &Form, name: &str) -> Result<bool, V2Error> {
    Ok(field(form, name, ErrorCode::InvalidField, true, truth)?.unwrap_or(false))
}

/// etcd names these two without quotes.
fn unquoted_flag(form: &Form, name: &str) -> Result<Option<bool>, V2Error> {
    field(form, name, ErrorCode::InvalidField, false, truth)
}

fn field<T>(
    form: &Form,
    name: &str,
    code: ErrorCode,
    quoted: bool,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, V2Error> {
    let Some(text) = form.get(name) else {
        return Ok(None);
    };
    let quote = if quoted { "\"" } else { "" };
    let error = || V2Error::request(code, format!("invalid value for {quote}{name}{quote}"));
    parse(text).map(Some).ok_or_else(error)
}

/// A truth value as Go reads it.
fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &Method, query: &str) -> Result<Operation, V2Error> {
        let key = KeyPath::new("/k").expect("a key");
        let form = Form::parse(None, Some(query)).expect("a form");
        parse(method, key, &form)
    }

    fn write(method: &Method, query: &str) -> Write {
        match operation(method, query).expect("an operation") {
            Operation::Write(write) => write,
            other => panic!("not a write: {other:?}"),
        }
    }

    fn change(method: &Method, query: &str) -> WriteKind {
        write(method, query).change
    }

    fn error(method: &Method, query: &str) -> (ErrorCode, String) {
        let error = operation(method, query).expect_err("an error");
        assert_eq!(error.index, 0);
        (error.code, error.cause)
    }

    #[test]
    fn a_put_is_what_its_conditions_make_it() {
        let put = |query| change(&Method::PUT, query);
        let value = b"v".to_vec();
        let file = || Content::File(value.clone());
        let condition = |value: &str, index| Condition {
            value: value.into(),
            index,
        };
        assert_eq!(put("value=v"), WriteKind::Set(file()));
        assert_eq!(put(""), WriteKind::Set(Content::File(Vec::new())));
        assert_eq!(put("value=v&prevIndex=0&ttl="), WriteKind::Set(file()));
        assert_eq!(
            put("value=v&prevExist=false&prevValue=x"),
            WriteKind::Create(file())
        );
        assert_eq!(put("value=v&prevExist=T"), WriteKind::Update(value.clone()));
        assert_eq!(
            put("value=v&prevExist=true&prevIndex=3"),
            WriteKind::CompareAndSwap(condition("", 3), value.clone())
        );
        assert_eq!(
            put("value=v&prevValue=a&prevIndex=3"),
            WriteKind::CompareAndSwap(condition("a", 3), value.clone())
        );
        assert_eq!(put("value=v&dir=true"), WriteKind::Set(Content::Dir));
        assert_eq!(
            put("dir=true&prevExist=false"),
            WriteKind::Create(Content::Dir)
        );
        let post = |query| change(&Method::POST, query);
        assert_eq!(
            post("value=v&prevExist=true&prevIndex=3"),
            WriteKind::CreateInOrder(file())
        );
        assert_eq!(post("dir=1"), WriteKind::CreateInOrder(Content::Dir));
    }

    #[test]
    fn a_write_may_end_by_itself_and_be_a_refresh() {
        let put = |query| write(&Method::PUT, query);
        assert_eq!(put("value=v").ttl, None);
        assert_eq!(put("value=v&ttl=").ttl, None);
        assert_eq!(put("value=v&ttl=0").ttl, Some(0));
        let refresh = put("refresh=true&ttl=8999999990");
        assert_eq!((refresh.ttl, refresh.refresh), (Some(MAX_TTL), true));
        assert_eq!(write(&Method::DELETE, "ttl=5").ttl, None);
    }

    #[test]
    fn a_delete_may_have_conditions_too() {
        let delete = |query| change(&Method::DELETE, query);
        assert_eq!(
            delete("recursive=true&prevExist=false"),
            WriteKind::Delete {
                dir: false,
                recursive: true
            }
        );
        assert!(matches!(
            delete("prevIndex=1&dir=true"),
            WriteKind::CompareAndDelete(_)
        ));
    }

    #[test]
    fn a_get_may_wait_and_ignores_what_is_for_writes() {
        assert_eq!(
            operation(
                &Method::GET,
                "wait=true&recursive=1&waitIndex=7&ttl=5&dir=true"
            ),
            Ok(Operation::Wait(Wait {
                key: KeyPath::new("/k").expect("a key"),
                recursive: true,
                index: 7,
                stream: false
            }))
        );
        assert!(matches!(
            operation(&Method::GET, "wait=true&stream=true"),
            Ok(Operation::Wait(Wait {
                stream: true,
                index: 0,
                ..
            }))
        ));
        assert!(matches!(
            operation(&Method::HEAD, "unknown=%20&stream=true"),
            Ok(Operation::Get(_))
        ));
    }

    #[test]
    fn wrong_fields_have_etcds_numbers_and_causes() {
        let put = |query: &str| error(&Method::PUT, query);
        for name in [
            "recursive",
            "sorted",
            "wait",
            "dir",
            "quorum",
            "stream",
            "noValueOnSuccess",
        ] {
            for bad in ["", "yes", "tRUE", "2"] {
                assert_eq!(
                    put(&format!("{name}={bad}")),
                    (
                        ErrorCode::InvalidField,
                        format!("invalid value for \"{name}\"")
                    )
                );
            }
        }
        for name in ["prevIndex", "waitIndex"] {
            for bad in ["", "-1", "+1", "x", "18446744073709551616"] {
                assert_eq!(
                    put(&format!("{name}={bad}")),
                    (
                        ErrorCode::IndexNotANumber,
                        format!("invalid value for \"{name}\"")
                    )
                );
            }
        }
        for (query, code, cause) in [
            (
                "prevExist=",
                ErrorCode::InvalidField,
                "invalid value for prevExist",
            ),
            (
                "refresh=x",
                ErrorCode::InvalidField,
                "invalid value for refresh",
            ),
            (
                "ttl=-1",
                ErrorCode::TtlNotANumber,
                "invalid value for \"ttl\"",
            ),
            (
                "ttl=8999999991",
                ErrorCode::TtlNotANumber,
                "the ttl is larger than 8999999990",
            ),
            (
                "prevValue=",
                ErrorCode::PrevValueRequired,
                "\"prevValue\" cannot be empty",
            ),
            (
                "wait=true",
                ErrorCode::InvalidField,
                "\"wait\" can only be used with GET requests",
            ),
            (
                "refresh=true&value=x",
                ErrorCode::RefreshValue,
                "A value was provided on a refresh",
            ),
            (
                "refresh=true",
                ErrorCode::RefreshTtlRequired,
                "No TTL value set",
            ),
        ] {
            assert_eq!(put(query), (code, cause.to_owned()), "{query}");
        }
        // Two mistakes: the first that etcd looks at.
        assert_eq!(put("prevIndex=x&recursive=x").0, ErrorCode::IndexNotANumber);
    }
}
