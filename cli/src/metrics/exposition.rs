//! Text formats of metrics.
//!
//! The library writes OpenMetrics only. Prometheus's older text format is the
//! same but for this: the family of a counter is called as its samples are,
//! `…_total`, and there is no mark of the end.

use std::collections::BTreeSet;
use std::fmt;

use axum::http::{HeaderMap, header};
use prometheus_client::registry::Registry;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposition {
    /// Prometheus's text format.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Exposition {
    /// OpenMetrics if `Accept` prefers it or does not mind, else text.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        let accepted = headers.get_all(header::ACCEPT).into_iter();
        for range in accepted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|v| v.split(','))
        {
            let mut words = range.split(';').map(str::trim);
            let kind = words.next().unwrap_or_default().to_ascii_lowercase();
            let quality = words
                .find_map(|word| word.strip_prefix("q="))
                .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            match kind.as_str() {
                OPEN_METRICS => open = open.max(quality),
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn write(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry)?;
        Ok(match self {
            Self::Text => to_text_format(&text),
            Self::OpenMetrics => text,
        })
    }
}

fn to_text_format(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                text.extend(["# ", what, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let wanted = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for accept in accept {
                headers.append(header::ACCEPT, accept.parse().expect("a header"));
            }
            Exposition::wanted(&headers)
        };
        for text in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/html,*/*;q=0.8"],
            &["text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=x,text/plain;q=0.1"],
            &["application/json"],
        ] {
            assert_eq!(wanted(text), Exposition::Text, "{text:?}");
        }
        for open in [
            &["application/openmetrics-text"][..],
            &["Application/OpenMetrics-Text; version=1.0.0"],
            // Prometheus 2 and 3.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ],
            &["text/plain;q=0.2", "application/openmetrics-text;q=0.3"],
        ] {
            assert_eq!(wanted(open), Exposition::OpenMetrics, "{open:?}");
        }
    }

    #[test]
    fn counters_are_called_as_their_samples() {
        let open = "# HELP a_b Help of b.\n# TYPE a_b counter\na_b_total 1\n\
                    # HELP a Gauge.\n# TYPE a gauge\n# UNIT a seconds\na 2\n# EOF\n";
        assert_eq!(
            to_text_format(open),
            "# HELP a_b_total Help of b.\n# TYPE a_b_total counter\na_b_total 1\n\
             # HELP a Gauge.\n# TYPE a gauge\na 2\n"
        );
    }
}
