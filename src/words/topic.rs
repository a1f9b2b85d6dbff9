//! The news of each topic, and what a person should do about it.
//!
//! Commands are complete, so that they can be copied, and stand in backticks, so that it is seen where they end.

use crate::model::{Announcement, Color, Mode, Refusal, Topic};

fn name(color: Option<&Color>, unknown: &'static str) -> String {
    color.map_or_else(|| unknown.to_owned(), |color| color.to_string())
}

/// The guard, with its cluster where its name does not begin with it: a title is all that a lock screen shows.
fn whose(a: &Announcement) -> String {
    if a.cluster.is_empty() || a.guard.names_cluster() {
        a.guard.to_string()
    } else {
        format!("{} ({})", a.guard, a.cluster)
    }
}

/// What was asked for, or decided.
fn deed(a: &Announcement) -> &'static str {
    if a.switch { "Switch" } else { "Rollback" }
}

/// The news in a few words.
pub(super) fn title(a: &Announcement) -> String {
    let guard = &whose(a);
    let from = name(a.from.as_ref(), "the live color");
    let to = name(a.to.as_ref(), "the other color");
    let rule = a.trigger.as_deref().unwrap_or("a rule");
    let moved = a.took_ms.is_some();
    let deed = deed(a);
    if let (Mode::Monitor, Some(title)) = (a.mode, title_in_monitor_mode(a, &from, &to)) {
        return title;
    }
    match a.topic {
        Topic::RollbackInitiated => format!("Rolling back: {guard} from {from} to {to}"),
        Topic::RollbackCompleted => format!("Rolled back: {guard} is on {to} again"),
        Topic::ArrivalUnseen => format!("Traffic moved, arrival not seen yet: {guard} was switched to {to}"),
        Topic::RollbackFailed if moved => format!("{deed} not finished: {guard} was switched to {to}, and traffic has not arrived"),
        Topic::RollbackFailed => format!("{deed} failed: {guard} is still on {from}"),
        Topic::RollbackWithheld if a.switch => format!("Would have switched: {guard} from {from} to {to}"),
        Topic::RollbackWithheld => format!("Would have rolled back: {guard} from {from} to {to}"),
        Topic::RollbackBlocked => format!("{deed} blocked: {guard} stays on {from}"),
        Topic::ScalingUp if a.switch => format!("Scaling up {to}: {guard} is switched to it the moment it can serve"),
        Topic::ScalingUp => format!("Scaling up {to}: {guard} is rolled back from {from} the moment it can serve"),
        Topic::RollbackSuppressed => format!("Not rolled back: {guard} stays on {from}"),
        Topic::Recovered => format!("Recovered: {guard} is healthy on {to}"),
        Topic::DidNotHelp => format!("Rollback did not help: {guard} is bad on {to} too"),
        Topic::FlippedBack => format!("Flipped back: somebody moved {guard} to {to} again"),
        Topic::Resolved if is_abandoned(a) => format!("Closed: {guard} is no longer guarded"),
        Topic::Resolved if moved => format!("Resolved: {guard} is on {to}, and the incident is over"),
        Topic::Resolved => format!("Resolved: the incident of {guard} is over"),
        Topic::EvidenceReady if a.switch => format!("Report ready: what became of the switch of {guard} to {to}"),
        Topic::EvidenceReady if moved => format!("Report ready: why {guard} was rolled back from {from}"),
        Topic::EvidenceReady => format!("Report ready: what was wrong with {from} of {guard}"),
        Topic::EvidenceLost => format!("Evidence lost: that of {guard} cannot be kept"),
        Topic::Blind => format!("Blind: no usable data for {guard}"),
        Topic::Sighted => format!("Seeing again: usable data for {guard}"),
        Topic::UnknownColor => format!("Unknown color: {guard} selects none of its colors"),
        Topic::Unreadable => format!("Unreadable: the route of {guard} cannot be read"),
        Topic::Readable => format!("Readable again: the route of {guard}"),
        Topic::Disarmed => format!("Disarmed: {guard} was rolled back too often"),
        Topic::Rearmed => format!("Armed again: {guard} is rolled back again when it is bad"),
        Topic::Cleared => format!("Forgiven: a release of {guard} is held for bad no more"),
        Topic::Alert => format!("Alert: {rule} of {guard} is past its threshold"),
        Topic::Degraded => format!("Degraded: {rule} of {guard} is near its threshold"),
        Topic::Switched => format!("Switched: {guard} is on {to} now"),
        Topic::Paused => format!("Paused: {guard} will not be rolled back"),
        Topic::Resumed => format!("Resumed: {guard} is guarded again"),
        Topic::ManyFailing => "Many guards are failing at once: suspect a shared cause".to_owned(),
        Topic::FewFailing => "No guard is held any more: few are failing".to_owned(),
        Topic::Test => format!("Test: messages about {guard} arrive here"),
    }
}

/// What would have happened, where the guard only watches; `None` where it happened all the same, or never does.
fn title_in_monitor_mode(a: &Announcement, from: &str, to: &str) -> Option<String> {
    let (guard, deed) = (&whose(a), deed(a));
    Some(match a.topic {
        Topic::RollbackInitiated | Topic::RollbackCompleted | Topic::ArrivalUnseen => {
            format!("Would have rolled back: {guard} from {from} to {to}")
        }
        Topic::RollbackFailed => format!("{deed} would have failed: {guard} is still on {from}"),
        Topic::RollbackBlocked => format!("Rollback would have been blocked: {guard} stays on {from}"),
        Topic::ScalingUp => format!("Would have scaled {to} up, and rolled {guard} back from {from}"),
        Topic::RollbackSuppressed => format!("Would not have been rolled back: {guard} stays on {from}"),
        Topic::EvidenceReady => format!("Report ready: why {guard} would have been rolled back from {from}"),
        Topic::Disarmed => format!("Disarmed: {guard} would have been rolled back too often"),
        Topic::Rearmed => format!("Armed again: {guard} would be rolled back again when it is bad"),
        Topic::Paused => format!("Paused: {guard} would not be rolled back"),
        Topic::Resumed => format!("Resumed: {guard} is watched again"),
        _ => return None,
    })
}

/// What is left for a person to do.
pub(super) fn next(a: &Announcement) -> String {
    match a.mode {
        Mode::Enforce => next_in_enforce_mode(a),
        Mode::Monitor => next_in_monitor_mode(a).unwrap_or_else(|| next_in_enforce_mode(a)),
    }
}

/// How traffic is moved by hand: flipback withholds a person's commands, too, where it only monitors.
fn by_hand(a: &Announcement) -> String {
    // Somebody's move back leads from the good color to the bad one, and a rollback that did not help may have left the
    // better one; every other announcement leads to the good one.
    let good = if matches!(a.topic, Topic::FlippedBack | Topic::DidNotHelp) {
        &a.from
    } else {
        &a.to
    };
    let color = name(good.as_ref(), "COLOR");
    match a.mode {
        Mode::Enforce => format!("`flipback switch {} {color} --reason \"by hand\"`", a.guard),
        Mode::Monitor => format!("set the selector of {} to {color} your own way", a.object),
    }
}

fn next_in_enforce_mode(a: &Announcement) -> String {
    let (guard, object) = (&a.guard, &a.object);
    let from = name(a.from.as_ref(), "the color that was left");
    let to = name(a.to.as_ref(), "the other color");
    let by_hand = by_hand(a);
    let check = format!("`flipback check {guard}`");
    let status = format!("`flipback status {guard}`");
    if let Some(next) = next_after_switch(a, &from, &to) {
        return next;
    }
    match a.topic {
        Topic::RollbackInitiated => {
            format!("Nothing yet: the outcome follows within seconds. If it does not, look with {status}.")
        }
        Topic::RollbackCompleted => format!(
            "No hurry: users are served by {to}, and the pods of {from} still run, so that you can look at them. Find out what was wrong \
             before you release it again. If Git or a GitOps tool owns {object}, change it there too, else it moves traffic back."
        ),
        Topic::ArrivalUnseen => format!(
            "{object} selects {to}, and new connections go there as soon as its endpoints follow. flipback could not ask the API server whether \
             they do: it asks again by itself, and tells here what it finds. See whether users are served, and why the API server does \
             not answer."
        ),
        Topic::RollbackFailed if a.took_ms.is_some() => format!(
            "Look at once whether users are served: {object} selects {to}, and its endpoints do not follow. {status} shows who is Ready. \
             To go back: `flipback switch {guard} {from} --reason \"by hand\"`."
        ),
        Topic::RollbackFailed => format!(
            "Users are still served by the bad release. Do not wait for the next attempt, move traffic by hand now: {by_hand}. Where flipback \
             has no right to: `kubectl -n {} edit {object}`, and give its selector the value of {to}. {check} tells what flipback may not or \
             cannot do.",
            a.namespace
        ),
        Topic::RollbackWithheld => format!(
            "Users are still served by the bad release, and flipback changes nothing, since this guard only monitors. To move traffic, \
             set the selector of {object} to {to} your own way. With mode = \"enforce\" flipback does it."
        ),
        Topic::RollbackBlocked => format!("Users are still served by the bad release. {}", unblocked(a, &to, &by_hand)),
        Topic::ScalingUp => format!(
            "Users are still served by the bad release until the pods of {to} are Ready; then flipback moves traffic by itself. {status} \
             shows how many are. If they do not come up, look why: `kubectl get pods` tells what they wait for."
        ),
        Topic::RollbackSuppressed => format!(
            "Users may be hurt, and flipback leaves traffic where it is. Look first at what both colors share: database, network, a \
             backend. To move traffic all the same: {by_hand}."
        ),
        Topic::EvidenceReady => open_report(a),
        Topic::EvidenceLost => {
            "Traffic is not affected, only the evidence. Make room on the volume of flipback's data folder, or make it \
             writable: flipback tries again."
                .to_owned()
        }
        Topic::Recovered => format!("Nothing urgent. Find out what was wrong with {from} before you release it again."),
        Topic::DidNotHelp => format!(
            "Look at what both colors share: database, network, a backend, the requests themselves. flipback does not move traffic to and \
             fro. If {from} was the better one: {by_hand}."
        ),
        Topic::FlippedBack => format!(
            "Users are served by the release that was bad. If nobody meant it, a GitOps tool has applied an old state of {object}: {check} \
             names it, and prints what makes it leave a rollback alone. To move traffic now: {by_hand}."
        ),
        Topic::Resolved if is_abandoned(a) => {
            format!("Nothing, if you know of it. Otherwise put {guard} back into the configuration: until then nobody rolls it back, and nobody says how it fares.")
        }
        Topic::Resolved => a.incident.as_ref().filter(|_| a.evidence.is_some()).map_or_else(
            || "Nothing: it is over.".to_owned(),
            |incident| {
                format!("Nothing urgent: the evidence has what came after it too. `flipback evidence pin {incident}` keeps it for the post-mortem.")
            },
        ),
        Topic::Blind => {
            format!("Watch it yourself: nothing is judged and nothing is rolled back until data returns. {check} shows which query or probe fails.")
        }
        Topic::Sighted => "Nothing: it is judged again from here on. What happened in between was not.".to_owned(),
        Topic::UnknownColor => {
            format!("Nothing is rolled back until {object} selects a known color: correct its selector, or the guard's colors. {check} shows which are known.")
        }
        Topic::Unreadable => {
            format!("Watch it yourself: nothing is judged and nothing is rolled back until {object} can be read. {check} shows what is missing.")
        }
        Topic::Readable => "Nothing: it is guarded again from here on.".to_owned(),
        Topic::Disarmed => format!("Find the cause: flipback does not flip this guard by itself until its flips are a day old, or you arm it: `flipback clear {guard}`. To move traffic by hand: {by_hand}."),
        Topic::Rearmed => "Nothing: from here on it is rolled back again when it is bad.".to_owned(),
        Topic::Cleared => format!("Nothing, if you know of it: traffic may go to that release again by itself. `flipback history {guard}` shows who said so."),
        Topic::Alert => format!("Look whether users are hurt: this rule only tells, and traffic stays where it is. To move it by hand: {by_hand}."),
        Topic::Degraded => format!("Nothing yet, it is within its threshold. {status} shows where it goes."),
        Topic::Switched => "Nothing: flipback watches the new color closely from here on.".to_owned(),
        Topic::Paused => format!("When you are done: `flipback resume {guard}`. Until then it is judged, and nothing is moved."),
        Topic::Resumed => "Nothing: from here on it is rolled back again when it is bad.".to_owned(),
        Topic::ManyFailing => "Users of the guards that are held are still served by the bad releases. Look first at what they share: a database, nodes, \
             the network, certificates, Prometheus itself. If the releases are to blame all the same, `flipback override --for 10m --reason \
             \"...\"` lets them flip, and `flipback rollback GUARD` flips one."
            .to_owned(),
        Topic::FewFailing => "Nothing: whatever fails from here on is rolled back as usual.".to_owned(),
        Topic::Test => "Nothing: whoever reads this is told.".to_owned(),
    }
}

/// What differs where a person switched: nothing was said to be bad, and nobody tries again.
fn next_after_switch(a: &Announcement, from: &str, to: &str) -> Option<String> {
    let (guard, namespace, by_hand) = (&a.guard, &a.namespace, by_hand(a));
    Some(match a.topic {
        _ if !a.switch => return None,
        Topic::RollbackFailed if a.took_ms.is_none() => format!(
            "Traffic stays on {from}, and flipback does not try it again by itself. `flipback check {guard}` tells what it may not or cannot \
             do; then ask once more: {by_hand}."
        ),
        Topic::RollbackBlocked => format!(
            "Traffic stays on {from}, and flipback does not try it again by itself. Bring the pods of {to} up (`kubectl -n {namespace} get \
             pods` shows what they wait for), then ask once more: {by_hand}."
        ),
        Topic::ScalingUp => format!(
            "Traffic stays on {from} until the pods of {to} are Ready; then flipback moves it by itself. `flipback status {guard}` shows how \
             many are."
        ),
        Topic::RollbackWithheld => format!(
            "flipback changes nothing, since this guard only monitors. To move traffic, set the selector of {} to {to} your own way. With \
             mode = \"enforce\" flipback does it.",
            a.object
        ),
        _ => return None,
    })
}

/// How a person gets past what blocks a rollback: no command that would be refused as well.
fn unblocked(a: &Announcement, to: &str, by_hand: &str) -> String {
    let (guard, object) = (&a.guard, &a.object);
    match &a.refusal {
        Some(Refusal::StandbyNotReady { .. } | Refusal::StandbyScaling { .. }) => format!(
            "Bring the pods of {to} up (`kubectl -n {} get pods` shows what they wait for): flipback moves traffic the moment they can serve. \
             Until then it refuses a person's command, too.",
            a.namespace
        ),
        Some(Refusal::StandbyUnseen) => format!(
            "flipback does not see who is Ready, and moves nothing until it does, whoever asks: `flipback check {guard}` tells why. If you \
             know that {to} is well, set the selector of {object} to {to} your own way."
        ),
        Some(Refusal::Paused { .. }) => {
            format!("`flipback resume {guard}` lets flipback act again, or move traffic by hand: {by_hand}.")
        }
        Some(Refusal::Disarmed { .. }) => {
            format!("`flipback clear {guard}` arms it again, or move traffic by hand: {by_hand}.")
        }
        _ => format!("flipback tries again as long as it is bad: remove what blocks it, or move traffic by hand: {by_hand}."),
    }
}

/// What differs where the guard only watches.
fn next_in_monitor_mode(a: &Announcement) -> Option<String> {
    let (guard, object) = (&a.guard, &a.object);
    let check = format!("`flipback check {guard}`");
    let to = name(a.to.as_ref(), "the other color");
    let by_hand = by_hand(a);
    Some(match a.topic {
        Topic::RollbackInitiated | Topic::RollbackCompleted | Topic::ArrivalUnseen | Topic::RollbackFailed => {
            format!("Nothing was changed, since this guard only monitors. To move traffic, {by_hand}.")
        }
        Topic::RollbackBlocked => format!(
            "Users are still served by the bad release, and flipback changes nothing, since this guard only monitors. With mode = \
             \"enforce\" it would not have moved traffic either, for the reason above. To do so, {by_hand}."
        ),
        Topic::ScalingUp => format!(
            "Users are still served by the bad release, and flipback changes nothing, since this guard only monitors. With mode = \
             \"enforce\" it scales {to} up, and moves traffic once it can serve. To do so, scale {to} up and {by_hand}."
        ),
        Topic::RollbackSuppressed => format!(
            "Users may be hurt. Look first at what both colors share: database, network, a backend. flipback would have left traffic \
             where it is; to move it all the same, {by_hand}."
        ),
        Topic::DidNotHelp => format!(
            "Look at what both colors share: database, network, a backend, the requests themselves. To move traffic once more, {by_hand}."
        ),
        Topic::FlippedBack => format!(
            "Users are served by the release that was bad. If nobody meant it, a GitOps tool has applied an old state of {object}: change \
             it there, then {by_hand}."
        ),
        Topic::Blind => format!(
            "Watch it yourself: nothing is judged, and nothing would be rolled back, until data returns. {check} shows which query or probe fails."
        ),
        Topic::UnknownColor => format!(
            "Nothing would be rolled back until {object} selects a known color: correct its selector, or the guard's colors. {check} shows which are known."
        ),
        Topic::Unreadable => format!(
            "Watch it yourself: nothing is judged, and nothing would be rolled back, until {object} can be read. {check} shows what is missing."
        ),
        Topic::Readable => "Nothing: it is watched again from here on.".to_owned(),
        Topic::Disarmed => {
            format!(
                "Find the cause. With mode = \"enforce\" flipback would flip this guard no more until its flips are a day old. To move traffic, {by_hand}."
            )
        }
        Topic::Alert => format!("Look whether users are hurt: this rule only tells. To move traffic, {by_hand}."),
        Topic::Paused => format!("When you are done: `flipback resume {guard}`. Until then it is judged, and nothing would be moved."),
        Topic::Rearmed | Topic::Resumed => "Nothing: it is told again when it would be rolled back.".to_owned(),
        _ => return None,
    })
}

/// The replica whose disk the evidence lies on, where there are several.
fn replica(a: &Announcement) -> Option<&str> {
    let (replica, _) = a.evidence.as_deref()?.split_once(":/")?;
    (!replica.is_empty() && !replica.contains('/')).then_some(replica)
}

/// Whether a thread ends since its guard is configured no more: every other end tells what is active.
fn is_abandoned(a: &Announcement) -> bool {
    a.topic == Topic::Resolved && a.to.is_none()
}

fn open_report(a: &Announcement) -> String {
    let place = replica(a).map_or_else(|| "where flipback runs".to_owned(), |replica| format!("on {replica}"));
    match (&a.link, &a.incident) {
        (Some(link), _) => format!("Open {link}: what happened when, both colors side by side, and the log lines that matter."),
        (None, Some(incident)) => format!(
            "`flipback evidence open {incident}`, {place}: what happened when, both colors side by side, and the log lines that matter."
        ),
        (None, None) => "Open report.html in the folder of the evidence.".to_owned(),
    }
}
