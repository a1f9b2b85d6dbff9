//! The result as JUnit XML, which every pipeline shows: one test case per rule.
//!
//! A bad rule is a `failure`: the release is at fault. A rule of which too little is known is an `error`, not `skipped`: pipelines show
//! a skipped case as harmless, and a gate that saw nothing is not. Skipped are only the rules that were still collecting when another
//! one had already ended the gate as bad. A rule that only alerts never fails a pipeline: what it says is in its output.

use quick_junit::{NonSuccessKind, Property, Report as Suites, TestCase, TestCaseStatus, TestSuite};

use super::{
    report::{Report, RuleReport},
    trial::Finding,
};
use crate::model::Action;

/// The XML document.
///
/// # Errors
/// A sentence, when it cannot be written, which writing to memory does not know.
pub fn xml(report: &Report) -> Result<String, String> {
    let time = std::time::Duration::from_secs_f64(report.judged_seconds);
    let mut suite = TestSuite::new(format!("flipback gate: {}", report.who()));
    suite.set_time(time);
    suite.extra.insert("timestamp".into(), stamp(report).into());
    suite.add_property(Property::new("result", word(&report.result)));
    suite.add_property(Property::new("exit_code", report.exit_code.to_string()));
    suite.add_property(Property::new("cause", word(&report.cause)));
    suite.add_property(Property::new("why", report.why.as_str()));
    suite.add_property(Property::new("release", report.release.as_deref().unwrap_or("unknown")));
    if let Some(rollback) = &report.rollback {
        suite.add_property(Property::new("rollback", rollback.line()));
    }
    suite.add_test_cases(report.rules.iter().map(|rule| case(report, rule)));
    let mut suites = Suites::new("flipback gate");
    suites.set_time(time);
    suites.add_test_suite(suite);
    suites.to_string().map_err(|error| error.to_string())
}

/// A word as the JSON result spells it.
fn word(value: &impl serde::Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The start in whole seconds: what every reader of JUnit understands.
fn stamp(report: &Report) -> String {
    report.started_at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

fn case(report: &Report, rule: &RuleReport) -> TestCase {
    let mut status = match (rule.result, rule.action) {
        (Finding::Good, _) | (_, Action::Alert) => TestCaseStatus::success(),
        (Finding::Bad, Action::Rollback) => TestCaseStatus::non_success(NonSuccessKind::Failure),
        (Finding::Undecided, Action::Rollback) if report.result == Finding::Bad => TestCaseStatus::skipped(),
        (Finding::Undecided, Action::Rollback) => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if !matches!(status, TestCaseStatus::Success { .. }) {
        status.set_message(rule.why.as_str()).set_type(match rule.result {
            Finding::Bad => "bad",
            Finding::Good | Finding::Undecided => "undecided",
        });
        if let (Finding::Bad, Some(rollback)) = (rule.result, &report.rollback) {
            status.set_description(rollback.line());
        }
    }
    let mut case = TestCase::new(rule.rule.as_str(), status);
    case.set_classname(format!(
        "flipback.{}.{}",
        report.guard,
        report.color.as_deref().unwrap_or("unknown")
    ));
    case.set_system_out(numbers(rule));
    case
}

/// What was measured, a line each.
fn numbers(rule: &RuleReport) -> String {
    let alert = match (rule.action, rule.result) {
        (Action::Alert, Finding::Bad) => "ALERT (does not fail the gate)\n",
        (Action::Alert, _) => "alert only (does not fail the gate)\n",
        (Action::Rollback, _) => "",
    };
    format!(
        "{alert}{}\nlast: {}\nworst: {}\na breach is: {}\nbad of judged: {}\npasses: {} ({} in a row, {} needed)\nbreaches: {} ({} in a row, {} confirm it)\nunusable looks: {}\n",
        rule.why,
        rule.shown(rule.value),
        rule.shown(rule.worst),
        rule.limit(),
        rule.judged(),
        rule.passes,
        rule.passes_in_a_row,
        rule.passes_needed,
        rule.breaches,
        rule.streak,
        rule.of,
        rule.inconclusive,
    )
}
