//! The selectors a rule starts from, as data: one table for configuration, planner and documentation.
//!
//! A selector is a PromQL vector selector with placeholders that are filled per color. A placeholder is exactly `{namespace}`,
//! `{color}`, `{value}` or `{deployment}`: a bare word in braces is no PromQL, so nothing a selector may hold is mistaken for one.
//! Placeholders stand inside quotes; after `=~` and `!~` the filled-in text is escaped for the regular expression too.
//! Pods are told apart by the names a Deployment gives them, because plain applications carry no label that names their color.

use super::{Preset, TimeUnit};

impl Preset {
    /// Selector of all requests; empty where it must be given by hand.
    #[must_use]
    pub fn total(self) -> &'static str {
        match self {
            Self::PrometheusHttp | Self::HttpMs => {
                r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#
            }
            Self::Custom => "",
        }
    }

    /// Selector of the bad requests, which are answers of 500 and above, never of the 400s; empty where it must be given by hand.
    #[must_use]
    pub fn bad(self) -> &'static str {
        match self {
            Self::PrometheusHttp | Self::HttpMs => {
                r#"http_requests_total{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+",status=~"5.."}"#
            }
            Self::Custom => "",
        }
    }

    /// Selector of the latency histogram's buckets, without `le`; empty where it must be given by hand.
    #[must_use]
    pub fn buckets(self) -> &'static str {
        match self {
            Self::PrometheusHttp => {
                r#"http_request_duration_seconds_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#
            }
            Self::HttpMs => r#"http_request_duration_ms_bucket{namespace="{namespace}",pod=~"{deployment}-[a-z0-9]+-[a-z0-9]+"}"#,
            Self::Custom => "",
        }
    }

    /// The unit of the histogram's bounds; for hand-written selectors the one Prometheus recommends.
    #[must_use]
    pub fn unit(self) -> TimeUnit {
        match self {
            Self::PrometheusHttp | Self::Custom => TimeUnit::Seconds,
            Self::HttpMs => TimeUnit::Milliseconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_selector_of_a_preset_tells_colors_apart() {
        for preset in [Preset::PrometheusHttp, Preset::HttpMs] {
            for selector in [preset.total(), preset.bad(), preset.buckets()] {
                assert!(selector.contains(r#"namespace="{namespace}""#), "{selector}");
                assert!(selector.contains(r#"pod=~"{deployment}-"#), "{selector}");
            }
        }
    }
}
