//! `flipback evidence open`: the report in a browser, or, where there is none to be had, how to get it to one.
//!
//! A browser is taken from `$BROWSER`, else from the desktop. Over SSH, or without a display, no desktop is asked: a text
//! browser that takes over the terminal is nobody's wish at 3 am.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Serialize;

use super::{OneArgs, Site, code, print, quoted};
use crate::cli::{Failure, Output, command::note, paint};

/// The report within a bundle.
const REPORT: &str = "report.html";

#[derive(Serialize)]
struct Opened {
    id: String,
    path: PathBuf,
    /// The browser that was started.
    browser: Option<String>,
}

/// Opens a report; prints its path in any case.
pub(super) fn open(site: &Site, args: &OneArgs) -> Result<u8, Failure> {
    let found = site.one(&args.which)?;
    let path = found.folder.join(REPORT);
    if !path.is_file() {
        let id = &found.kept.id;
        return Err(Failure {
            code: crate::cli::BAD,
            message: format!("{id} has no {REPORT}: `flipback evidence show {id}` tells what it has"),
        });
    }
    let path = std::path::absolute(&path).unwrap_or(path);
    let variable = |name: &str| std::env::var_os(name);
    let browser = browsers(&variable, cfg!(target_os = "macos"))
        .into_iter()
        .find_map(|browser| start(&browser, &path).then_some(browser));
    let opened = Opened {
        id: found.kept.id,
        browser: browser.as_ref().map(|browser| browser.to_string_lossy().into_owned()),
        path,
    };
    print(args.form, || format!("{}\n", opened.path.display()), &opened);
    if opened.browser.is_none() && args.form.output == Output::Table {
        note(&elsewhere(&opened.path, &variable));
    }
    Ok(code(true))
}

/// What may open a page, best first.
fn browsers(variable: &impl Fn(&str) -> Option<OsString>, is_mac: bool) -> Vec<OsString> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let asked = set("BROWSER").into_iter().flat_map(|list| {
        let list = list.to_string_lossy().into_owned();
        list.split(':')
            .filter(|one| !one.is_empty())
            .map(OsString::from)
            .collect::<Vec<_>>()
    });
    let mut browsers: Vec<OsString> = asked.collect();
    let remote = set("SSH_CONNECTION").is_some() || set("SSH_TTY").is_some();
    if is_mac && !remote {
        browsers.push("open".into());
    } else if !remote && (set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some()) {
        browsers.push("xdg-open".into());
    }
    browsers
}

/// Starts a browser; whether that worked. `%s` stands for the page, as elsewhere in `$BROWSER`.
fn start(browser: &OsString, page: &Path) -> bool {
    let text = browser.to_string_lossy();
    let mut words = text.split_whitespace();
    let Some(program) = words.next() else { return false };
    let page = page.as_os_str();
    let mut arguments: Vec<OsString> = Vec::new();
    let mut placed = false;
    for word in words {
        placed |= word == "%s";
        arguments.push(if word == "%s" { page.to_owned() } else { word.into() });
    }
    if !placed {
        arguments.push(page.to_owned());
    }
    let mut command = Command::new(program);
    // A browser stays: it is neither waited for nor heard.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().is_ok()
}

/// How to get a report to a browser.
fn elsewhere(path: &Path, variable: &impl Fn(&str) -> Option<OsString>) -> String {
    let folder = quoted(path.parent().unwrap_or(path));
    let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
    let host = text("HOSTNAME").filter(|host| !host.is_empty());
    let copy = match (text("SSH_CONNECTION"), text("KUBERNETES_SERVICE_HOST")) {
        (Some(connection), _) => {
            let user = text("USER").map(|user| format!("{user}@")).unwrap_or_default();
            let address = connection.split_whitespace().nth(2).unwrap_or("HOST").to_owned();
            format!("scp -r {user}{address}:{folder} .")
        }
        (None, Some(_)) => {
            let pod = host.unwrap_or_else(|| "POD".to_owned());
            format!(
                "kubectl exec {pod} -- flipback evidence export {} --to - > evidence.tar.zst",
                file_name(path)
            )
        }
        (None, None) => {
            return "No browser was found: set $BROWSER, or open the file where there is one. It needs no network and no other file."
                .to_owned();
        }
    };
    let command = paint::styled(&copy, paint::PLAIN);
    format!("There is no browser here. The report needs no network and no other file; take it to one:\n  {command}")
}

fn file_name(path: &Path) -> String {
    path.parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| {
            set.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(*value))
        }
    }

    #[test]
    fn a_browser_is_the_users_else_the_desktops_and_none_over_ssh() {
        assert_eq!(
            browsers(&of(&[("BROWSER", "firefox:lynx"), ("DISPLAY", ":0")]), false),
            ["firefox", "lynx", "xdg-open"]
        );
        assert_eq!(browsers(&of(&[("WAYLAND_DISPLAY", "w")]), false), ["xdg-open"]);
        assert_eq!(
            browsers(&of(&[("DISPLAY", ":0"), ("SSH_CONNECTION", "1 2 3 4")]), false),
            Vec::<OsString>::new()
        );
        assert_eq!(browsers(&of(&[]), false), Vec::<OsString>::new());
        assert_eq!(browsers(&of(&[]), true), ["open"]);
    }

    #[test]
    fn without_a_browser_it_says_how_to_get_there() {
        let path = Path::new("/data/incidents/shop.web_1/report.html");
        let ssh = elsewhere(path, &of(&[("SSH_CONNECTION", "10.0.0.9 5000 10.0.0.4 22"), ("USER", "ann")]));
        assert!(
            anstream::adapter::strip_str(&ssh)
                .to_string()
                .contains("scp -r ann@10.0.0.4:/data/incidents/shop.web_1 ."),
            "{ssh}"
        );
        let pod = elsewhere(path, &of(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("HOSTNAME", "flipback-0")]));
        assert!(
            pod.contains("kubectl exec flipback-0 -- flipback evidence export shop.web_1 --to -"),
            "{pod}"
        );
        assert!(elsewhere(path, &of(&[])).contains("$BROWSER"));
    }
}
