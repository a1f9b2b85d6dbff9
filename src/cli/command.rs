//! What rollback, switch, pause and resume share: whom to ask, which guard is meant, what came of it.

use clap::Args;
use secrecy::SecretString;

use super::{
    BAD, Daemon as DaemonArgs, Failure, Form, Global, HEALTHY, Output, UNKNOWN,
    client::{ClientError, Daemon},
    paint, standalone,
};
use crate::{
    config::{Config, Flags},
    model::{Command, CommandError, CommandReply, GuardId, Incident, IncidentOutcome},
};

/// What commands share.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The answer's form.
    #[command(flatten)]
    pub form: Form,
    /// Who asks [default: user@host]
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
}

impl Common {
    /// Who asks: as given, else the user and the host as this machine knows them. `sudo` does not hide who it was.
    #[must_use]
    pub fn by(&self) -> String {
        if let Some(by) = self.by.as_ref().filter(|by| !by.trim().is_empty()) {
            return by.clone();
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let user = ["SUDO_USER", "USER", "LOGNAME"]
            .into_iter()
            .find_map(variable)
            .unwrap_or_else(|| "unknown".to_owned());
        let host = variable("HOSTNAME").or_else(|| {
            ["/proc/sys/kernel/hostname", "/etc/hostname"]
                .into_iter()
                .find_map(|path| std::fs::read_to_string(path).ok())
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
        });
        host.map_or(user.clone(), |host| format!("{user}@{host}"))
    }
}

/// The guard that is meant: by its whole name, or by last parts of it that only one guard has.
///
/// # Errors
/// A sentence with the names there are.
pub fn resolve<'a>(ids: impl Iterator<Item = &'a GuardId>, given: &str) -> Result<GuardId, String> {
    let ids: Vec<&GuardId> = ids.collect();
    if let Some(exact) = ids.iter().find(|id| id.as_str() == given) {
        return Ok((*exact).clone());
    }
    let ending = format!("/{given}");
    let meant: Vec<&&GuardId> = ids.iter().filter(|id| id.as_str().ends_with(&ending)).collect();
    let names = |ids: &[&&GuardId]| ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    match meant.as_slice() {
        [one] => Ok((**one).clone()),
        [] if ids.is_empty() => Err(format!("no guard is called {given:?}: there are none")),
        [] => Err(format!(
            "no guard is called {given:?}; there are: {}",
            names(&ids.iter().collect::<Vec<_>>())
        )),
        several => Err(format!("{given:?} may be any of {}: say which", names(several))),
    }
}

/// Carries a command to the daemon, or out from here where none runs, and prints the answer.
///
/// # Errors
/// [`Failure`] when it could not be asked for: no guard of that name, no daemon at the given address, a wrong token.
pub async fn carry(
    global: &Global,
    form: Form,
    daemon: &DaemonArgs,
    guard: &str,
    make: impl FnOnce(GuardId) -> Result<Command, Failure>,
) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = load(global, daemon)?;
    Ok(answered(form, ask(config, daemon, guard, make).await?))
}

/// Carries a command to the daemon, or out from here where none runs.
///
/// # Errors
/// [`Failure`] when it could not be asked for: no guard of that name, no daemon at the given address, a wrong token.
pub async fn ask(
    config: Option<Config>,
    daemon: &DaemonArgs,
    guard: &str,
    make: impl FnOnce(GuardId) -> Result<Command, Failure>,
) -> Result<Result<CommandReply, CommandError>, Failure> {
    let asked = if daemon.alone {
        None
    } else {
        reach(daemon, config.as_ref()).await?
    };
    let mut beside = false;
    if let Some((daemon, status)) = asked {
        let id = resolve(status.guards.iter().map(|guard| &guard.guard), guard).map_err(Failure::usage)?;
        let token = token(config.as_ref())?;
        let command = make(id)?;
        match daemon.command(&command, token.as_ref()).await {
            Ok(reply) => return Ok(Ok(reply)),
            Err(ClientError::Command(error)) => return Ok(Err(error)),
            Err(ClientError::NoToken(_)) if config.is_some() => {
                note("The daemon takes no commands over HTTP (no token is configured): doing it from here, which it will see.");
                beside = true;
            }
            Err(error) => return Err(Failure::unknown(format!("{error}; --alone does it from here, past the daemon"))),
        }
        let config = config.ok_or_else(|| Failure::usage("no configuration to stand alone with"))?;
        return Ok(standalone::command(config, command, beside).await);
    }
    let config = config.ok_or_else(|| Failure::usage("no configuration to stand alone with"))?;
    let id = resolve(config.guards.iter().map(|guard| &guard.id), guard).map_err(Failure::usage)?;
    let command = make(id)?;
    if !daemon.alone {
        note("No daemon runs here: doing it from here.");
    }
    Ok(standalone::command(config, command, beside).await)
}

/// Carries a command that is for no guard to the daemon, and prints the answer.
///
/// # Errors
/// [`Failure`] when it could not be asked for: no daemon, a wrong token.
pub async fn tell(global: &Global, form: Form, daemon: &DaemonArgs, command: &Command) -> Result<u8, Failure> {
    super::quiet_log(global);
    let config = load(global, daemon)?;
    let reached = if daemon.alone {
        None
    } else {
        reach(daemon, config.as_ref()).await?
    };
    let Some((daemon, _)) = reached else {
        return Err(Failure::unknown(
            "no daemon runs here: this is something that only a running one can be told",
        ));
    };
    let token = token(config.as_ref())?;
    let answer = match daemon.command(command, token.as_ref()).await {
        Ok(reply) => Ok(reply),
        Err(ClientError::Command(error)) => Err(error),
        Err(error) => return Err(Failure::unknown(error.to_string())),
    };
    Ok(answered(form, answer))
}

/// The configuration; with an address it may be missing or broken, since the daemon has its own.
///
/// # Errors
/// [`Failure`] when it is needed and wrong.
pub fn load(global: &Global, daemon: &DaemonArgs) -> Result<Option<Config>, Failure> {
    match global.load(Flags::default()) {
        Ok(config) => Ok(Some(config)),
        Err(_) if daemon.address.is_some() => Ok(None),
        Err(errors) => Err(errors.into()),
    }
}

/// The daemon and its status; `None` where none runs at the configured address. One that was named must answer.
///
/// # Errors
/// [`Failure`] when the named daemon does not answer.
pub async fn reach(daemon: &DaemonArgs, config: Option<&Config>) -> Result<Option<(Daemon, crate::model::Status)>, Failure> {
    let client = match (&daemon.address, config) {
        (Some(address), _) => Daemon::at(address).map_err(|error| Failure::usage(error.to_string()))?,
        (None, Some(config)) => Daemon::listening(config.serve.listen).map_err(|error| Failure::unknown(error.to_string()))?,
        (None, None) => return Ok(None),
    };
    match client.status().await {
        Ok(status) => Ok(Some((client, status))),
        Err(error) if daemon.address.is_some() => Err(Failure::unknown(error.to_string())),
        Err(ClientError::Nobody(_)) => Ok(None),
        Err(error) => {
            // Somebody is there and of no use. A person who wants to act now is not sent away.
            note(&format!("{error}; going past it."));
            Ok(None)
        }
    }
}

fn token(config: Option<&Config>) -> Result<Option<SecretString>, Failure> {
    match config.and_then(|config| config.serve.token.as_ref()) {
        Some(token) => token.read().map(Some).map_err(|error| Failure::usage(error.to_string())),
        // Without a configuration, the environment may still hold it.
        None => Ok(std::env::var("FLIPBACK_SERVE__TOKEN")
            .ok()
            .filter(|token| !token.is_empty())
            .map(SecretString::from)),
    }
}

/// A remark on standard error.
pub fn note(text: &str) {
    anstream::eprintln!("{}", paint::styled(text, paint::DIM));
}

/// Prints what came of a command; answers with the exit code.
fn answered(form: Form, answer: Result<CommandReply, CommandError>) -> u8 {
    let code = code(&answer);
    match (form.output, &answer) {
        (Output::Json, Ok(reply)) => print_json(reply),
        (Output::Json, Err(error)) => print_json(error),
        (Output::Table, answer) => {
            let style = if code == HEALTHY { paint::GOOD } else { paint::BAD };
            for (number, line) in lines(answer).iter().enumerate() {
                let style = if number == 0 { style } else { paint::PLAIN };
                anstream::println!("{}", paint::styled(line, style));
            }
        }
    }
    code
}

/// Prints JSON on standard output.
pub fn print_json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("our own types have text keys");
    anstream::println!("{text}");
}

/// Whether it was done.
fn code(answer: &Result<CommandReply, CommandError>) -> u8 {
    match answer {
        Ok(CommandReply::Done { .. }) => HEALTHY,
        Ok(CommandReply::Flip { incident }) => match incident.outcome {
            IncidentOutcome::RolledBack { .. } | IncidentOutcome::DryRun => HEALTHY,
            IncidentOutcome::Decided => UNKNOWN,
            IncidentOutcome::Withheld
            | IncidentOutcome::Failed { .. }
            | IncidentOutcome::Blocked { .. }
            | IncidentOutcome::Suppressed { .. } => BAD,
        },
        Err(CommandError::Busy) => UNKNOWN,
        Err(CommandError::UnknownGuard(_) | CommandError::UnknownColor(_)) => super::USAGE,
        Err(CommandError::Refused(_) | CommandError::Failed(_) | CommandError::NotLeading { .. }) => BAD,
    }
}

/// What came of it, for people; the first line is the answer.
#[must_use]
pub fn lines(answer: &Result<CommandReply, CommandError>) -> Vec<String> {
    match answer {
        Ok(CommandReply::Done { what }) => vec![what.clone()],
        Ok(CommandReply::Flip { incident }) => flip(incident),
        Err(error @ CommandError::NotLeading { leader, .. }) => {
            let mut lines = vec![error.to_string()];
            if let Some(leader) = leader {
                lines.push(format!(
                    "in a cluster: `kubectl port-forward pod/{leader} 8080` and the same command with --address http://127.0.0.1:8080"
                ));
            }
            lines.push("or with --alone, which does it from here, past all replicas".to_owned());
            lines
        }
        Err(error) => vec![error.to_string()],
    }
}

fn flip(incident: &Incident) -> Vec<String> {
    let case = &incident.case;
    let what = format!("{} ({} in {})", case.guard, incident.object, incident.namespace);
    let way = format!("from {} to {}", case.from, case.to);
    let mut lines = match &incident.outcome {
        IncidentOutcome::RolledBack {
            took_ms, preview_error, ..
        } => {
            let mut lines = vec![format!("{what}: traffic moved {way} in {took_ms:.0} ms")];
            lines.extend(
                preview_error
                    .iter()
                    .map(|error| format!("but the preview Service was not: {error}")),
            );
            lines
        }
        IncidentOutcome::DryRun => vec![format!(
            "{what}: traffic would move {way}; the API server accepts it, nothing was changed"
        )],
        IncidentOutcome::Withheld => vec![format!(
            "{what}: nothing moved, the guard is in monitor mode; it would have gone {way}"
        )],
        IncidentOutcome::Failed { error } => vec![format!("{what}: traffic was not moved {way}: {error}")],
        IncidentOutcome::Blocked { refusal } => vec![format!("{what}: refused to move traffic {way}: {refusal}")],
        IncidentOutcome::Suppressed { suppression } => vec![format!("{what}: not moved {way}: {suppression}")],
        IncidentOutcome::Decided => vec![format!("{what}: no answer yet whether traffic moved {way}; see `flipback status`")],
    };
    if incident.outcome != IncidentOutcome::DryRun {
        lines.push(format!("incident {}", incident.id));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<GuardId> {
        [("", "shop", "web"), ("", "shop", "api"), ("", "blog", "web")]
            .map(|(cluster, namespace, name)| GuardId::new(cluster, namespace, name).expect("valid"))
            .into()
    }

    #[test]
    fn a_guard_goes_by_its_last_part_where_only_one_has_it() {
        let ids = ids();
        let resolved = |given: &str| resolve(ids.iter(), given).map(|id| id.as_str().to_owned());
        assert_eq!(resolved("api"), Ok("shop/api".into()));
        assert_eq!(resolved("blog/web"), Ok("blog/web".into()));
        assert_eq!(resolved("web"), Err("\"web\" may be any of shop/web, blog/web: say which".into()));
        assert_eq!(
            resolved("eb"),
            Err("no guard is called \"eb\"; there are: shop/web, shop/api, blog/web".into())
        );
    }

    #[test]
    fn only_what_was_done_exits_with_zero() {
        assert_eq!(code(&Ok(CommandReply::Done { what: "paused".into() })), 0);
        assert_eq!(code(&Err(CommandError::Refused("x".into()))), 1);
        assert_eq!(code(&Err(CommandError::Busy)), 2);
        assert_eq!(code(&Err(CommandError::UnknownGuard("x".into()))), 64);
    }

    #[test]
    fn who_asks_is_never_empty() {
        let common = |by: &str| Common {
            form: Form { output: Output::Table },
            by: Some(by.into()),
        };
        assert!(!common("  ").by().trim().is_empty());
        assert_eq!(common("ann").by(), "ann");
    }
}
