//! Where the log goes: standard error, as text for a person or JSON for a collector.
//!
//! One subscriber for the whole process, installed once by `main`. Standard output stays free for what a command
//! answers. Color only where a person looks: a terminal, and `NO_COLOR` not set (<https://no-color.org>).

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::model::settings::{LogFormat, LogSettings};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not understood.
    #[error(
        "failed to read the log filter {filter:?}: expected comma-separated `level` or `target=level`, where level is one of off, \
         error, warn, info, debug, trace; for example \"info\" or \"info,flipback=debug\""
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser says.
        #[source]
        source: ParseError,
    },
    /// The filter names a level that does not exist, which would be taken for the name of a target.
    #[error(
        "failed to read the log filter {filter:?}: {word:?} is no level; expected one of off, error, warn, info, debug, trace, or \
         `target=level`"
    )]
    NoLevel {
        /// What was given.
        filter: String,
        /// The directive that is no level.
        word: String,
    },
    /// A subscriber is installed already.
    #[error("failed to install the log: one is installed already")]
    Installed,
}

/// Installs the process's log.
///
/// # Errors
/// [`TelemetryError`] when the filter is not understood or a log is installed already.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let filter = filter(&settings.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would tell of a log that cannot be written on standard error, and panic when that is full: a full disk
        // would end the daemon.
        .log_internal_errors(false);
    match settings.format {
        LogFormat::Text => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            builder.with_ansi(io::stderr().is_terminal() && !no_color).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    }
    .map_err(|_| TelemetryError::Installed)
}

/// Checks a filter without installing anything; configuration is checked with it before the log exists.
///
/// # Errors
/// [`TelemetryError`] when the filter is not understood.
pub fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        // `verbose` parses as "everything of the target `verbose`": silence where a person expects more.
        let bare = !word.contains(['=', ':', '[', '.']) && word != "flipback";
        if bare && word.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
            return Err(TelemetryError::NoLevel {
                filter: text.to_owned(),
                word: word.to_owned(),
            });
        }
    }
    EnvFilter::builder().parse(text).map_err(|source| TelemetryError::Filter {
        filter: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_and_usual_ones_are_understood() {
        for good in [
            LogSettings::default().filter.as_str(),
            "warn",
            "info,flipback=debug,kube=off",
            "flipback::monitor=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_wrong_filter_says_what_is_allowed() {
        for bad in ["flipback=loud", "verbose", "info,verbos"] {
            let error = filter(bad).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("debug"), "{error}");
        }
    }
}
