//! The JSON of one record.
//!
//! As lenient as what is written for SkyDNS has come to be: names of fields in
//! any case, numbers also as strings, unknown fields passed over.

use std::net::IpAddr;

use manifests::HostName;
use serde_json::{Map, Value};

/// Longest value.
const MAX_VALUE: usize = 4096;
/// The field that names the host which publishes a record.
const MARK: &str = "dokkaa";
/// Without `priority`.
const PRIORITY: u16 = 10;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it leads; none if it is text only.
    pub host: Option<Target>,
    /// Of SRV.
    pub port: u16,
    /// Of SRV and MX: the lower, the better.
    pub priority: u16,
    /// Of SRV, a percentage.
    pub weight: u16,
    /// Of TXT; may be empty.
    pub text: String,
    /// In seconds; none is the server's own.
    pub ttl: Option<u32>,
    /// Records of another group are left out; empty is of every group.
    pub group: String,
    /// Labels to leave out of the name that an address gets in SRV.
    pub target_strip: usize,
    /// A mail exchange.
    pub mail: bool,
}

/// What `host` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Addr(IpAddr),
    /// Another name.
    Name(String),
}

/// Why a key is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is not that of a name.
    #[error(
        "its key is not a domain reversed, such as `{}local/skydns/db`",
        manifests::keys::SKYDNS
    )]
    NotAName,
    /// The value is too long.
    #[error("it has {0} octets; expected at most {MAX_VALUE}")]
    TooLong(usize),
    /// The value is not a JSON object.
    #[error("it is not a JSON object such as `{{\"host\": \"10.0.0.9\"}}`")]
    NotAnObject,
    /// A field has a wrong value.
    #[error("`{0}` is not {1}")]
    Field(&'static str, &'static str),
    /// It says nothing.
    #[error("it has neither `host` nor `text`, and needs one of them")]
    Nothing,
}

/// A record as a host publishes it, for others than agents.
pub fn published(by: &HostName, addr: IpAddr, port: u16, ttl: u32) -> String {
    serde_json::json!({"host": addr, "port": port, "ttl": ttl, MARK: by}).to_string()
}

/// The host that has published a record; none of another's.
pub fn publisher(value: &[u8]) -> Option<HostName> {
    let fields: Map<String, Value> = serde_json::from_slice(value).ok()?;
    fields.get(MARK)?.as_str()?.parse().ok()
}

/// None of what is published: the agents know it better.
pub(super) fn parse(value: &[u8]) -> Result<Option<Record>, RecordError> {
    if value.len() > MAX_VALUE {
        return Err(RecordError::TooLong(value.len()));
    }
    let fields: Map<String, Value> =
        serde_json::from_slice(value).map_err(|_| RecordError::NotAnObject)?;
    if fields.contains_key(MARK) {
        return Ok(None);
    }
    record(fields).map(Some)
}

/// The record that fields make.
pub(super) fn record(fields: Map<String, Value>) -> Result<Record, RecordError> {
    let fields = Fields(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect(),
    );
    let priority = fields.number("priority")?;
    let record = Record {
        host: fields.host()?,
        port: fields.number("port")?,
        priority: if priority == 0 { PRIORITY } else { priority },
        weight: fields.number("weight")?,
        text: fields.text("text")?,
        ttl: Some(fields.number("ttl")?).filter(|ttl| *ttl > 0),
        group: fields.text("group")?,
        target_strip: fields.number::<u8>("targetstrip")?.into(),
        mail: fields.flag("mail")?,
    };
    if record.host.is_none() && record.text.is_empty() {
        return Err(RecordError::Nothing);
    }
    Ok(record)
}

/// The fields that make a record.
pub(super) fn fields(record: &Record) -> Value {
    let host = record.host.as_ref().map(|host| match host {
        Target::Addr(addr) => addr.to_string(),
        Target::Name(name) => name.clone(),
    });
    serde_json::json!({
        "host": host,
        "port": record.port,
        "priority": record.priority,
        "weight": record.weight,
        "text": record.text,
        "ttl": record.ttl,
        "group": record.group,
        "targetstrip": record.target_strip,
        "mail": record.mail,
    })
}

/// Fields by name in lower case.
struct Fields(Map<String, Value>);

impl Fields {
    fn number<N: TryFrom<u64> + Default>(&self, name: &'static str) -> Result<N, RecordError> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(N::default()),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        let number = number.and_then(|number| number.try_into().ok());
        number.ok_or(RecordError::Field(name, "a number in its range"))
    }

    fn text(&self, name: &'static str) -> Result<String, RecordError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(RecordError::Field(name, "a string")),
        }
    }

    fn flag(&self, name: &'static str) -> Result<bool, RecordError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(RecordError::Field(name, "true or false")),
        }
    }

    fn host(&self) -> Result<Option<Target>, RecordError> {
        let host = self.text("host")?;
        if host.is_empty() {
            return Ok(None);
        }
        if let Ok(addr) = host.parse() {
            return Ok(Some(Target::Addr(addr)));
        }
        let labels = host.strip_suffix('.').unwrap_or(&host);
        let is_name = labels.len() <= 253
            && labels.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            });
        if is_name {
            Ok(Some(Target::Name(labels.to_ascii_lowercase())))
        } else {
            Err(RecordError::Field("host", "an address or a domain name"))
        }
    }
}
