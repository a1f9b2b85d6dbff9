//! Colors: what the route's selector calls them, what runs them, what reaches them alone.
//!
//! Refuses what could not be told apart: two colors of one value, one Deployment or one Service, a Service that moves with the flip, a
//! rule that speaks of a Deployment or Service that a color does not name.

use std::collections::BTreeMap;

use crate::model::{Color, ColorSpec, RuleKind, RuleSpec, ServiceRoute};

use super::{
    check::is_label,
    error::Problem,
    guard::{NAME, is_label_value, is_subdomain},
    raw::{Node, NodeKind, Table},
    selector,
};

const VALUE: &str = "a selector value: at most 63 letters, digits, '-', '_' and '.'";

/// `[guards.colors]`, read.
pub(super) fn colors(table: Table<'_>) -> BTreeMap<Color, ColorSpec> {
    let mut colors: BTreeMap<Color, ColorSpec> = BTreeMap::new();
    let entries = table.entries();
    for (name, node) in &entries {
        let Ok(color) = Color::new(name) else {
            table.problems.add(Problem {
                found: format!("a color called {name:?}"),
                ..node.problem(NAME)
            });
            continue;
        };
        let Some(spec) = color_spec(&table, name, node) else { continue };
        if let Some((other, _)) = colors.iter().find(|(_, other)| other.value == spec.value) {
            table.problems.add(node.problem("a value that no other color has").hint(format!(
                "{:?} already means {other}: the selector could not tell them apart",
                spec.value
            )));
            continue;
        }
        shares_nothing(&table, node, &spec, &colors);
        colors.insert(color, spec);
    }
    if entries.len() < 2 {
        table.problems.add(Problem {
            origin: table.node().origin,
            key: table.node().key,
            found: entries
                .first()
                .map_or_else(|| "none".to_owned(), |(name, _)| format!("only {name}")),
            allowed: "two or more, such as blue = \"web-blue\" and green = \"web-green\"".to_owned(),
            hint: None,
        });
    }
    table.close();
    colors
}

/// One color: just its value, or a table.
fn color_spec(table: &Table<'_>, name: &str, node: &Node) -> Option<ColorSpec> {
    match &node.kind {
        NodeKind::Text(_) => Some(ColorSpec {
            value: table.text_where(name, VALUE, is_label_value)?,
            deployment: None,
            service: None,
        }),
        NodeKind::Table(_) => {
            let inner = node.table(table.problems)?;
            let value = match inner.get("value") {
                Some(_) => inner.text_where("value", VALUE, is_label_value),
                None => Some(name.to_owned()),
            };
            let deployment = inner.text_where("deployment", "the name of a Deployment", is_subdomain);
            let service = inner.text_where("service", "the name of the Service that reaches this color alone", is_label);
            inner.close();
            Some(ColorSpec {
                value: value?,
                deployment,
                service,
            })
        }
        _ => {
            table
                .problems
                .add(node.problem("a selector value in quotes, or { value = \"...\", deployment = \"...\", service = \"...\" }"));
            None
        }
    }
}

/// A Deployment or Service of two colors is neither's own.
fn shares_nothing(table: &Table<'_>, node: &Node, spec: &ColorSpec, colors: &BTreeMap<Color, ColorSpec>) {
    for (other, taken) in colors {
        if let Some(deployment) = spec.deployment.as_ref().filter(|own| taken.deployment.as_ref() == Some(own)) {
            table.problems.add(
                node.problem("a Deployment that no other color has")
                    .hint(format!("{deployment:?} already runs {other}")),
            );
        }
        if let Some(service) = spec.service.as_ref().filter(|own| taken.service.as_ref() == Some(own)) {
            table.problems.add(
                node.problem("a Service that no other color has")
                    .hint(format!("{service:?} already reaches {other}")),
            );
        }
    }
}

/// A Service that the flip moves from color to color is no color's own.
pub(super) fn own_services(table: &Table<'_>, colors: &BTreeMap<Color, ColorSpec>, route: &ServiceRoute) {
    for (color, spec) in colors {
        let Some(service) = spec.service.as_ref() else { continue };
        if *service == route.active || route.preview.as_ref() == Some(service) {
            table.problems.add(Problem {
                found: format!("{service:?}"),
                ..table
                    .missing(
                        &format!("colors.{color}.service"),
                        format!("a Service that reaches {color} whatever the route says"),
                    )
                    .hint("the route's own Services change their color at every flip: what is counted under their name is no color's")
            });
        }
    }
}

/// A selector that speaks of `{deployment}` or `{service}` needs one for every color.
pub(super) fn every_color_fits(table: &Table<'_>, rules: &[RuleSpec], colors: &BTreeMap<Color, ColorSpec>) {
    let needs = |word: &str| {
        let speaks = |selector: &&str| selector::placeholders(selector).any(|known| known == word);
        rules.iter().find(|rule| selectors(&rule.kind).iter().any(speaks))
    };
    let lacks = |rule: &RuleSpec, color: &Color, spec: &ColorSpec, key: &str, what: &str| {
        table.problems.add(
            table
                .missing(
                    &format!("colors.{color}.{key}"),
                    format!("{what}: the rule {} tells colors apart by it", rule.name),
                )
                .hint(format!("{color} = {{ value = {:?}, {key} = \"...\" }}", spec.value)),
        );
    };
    if let Some(rule) = needs("deployment") {
        for (color, spec) in colors.iter().filter(|(_, spec)| spec.deployment.is_none()) {
            lacks(rule, color, spec, "deployment", &format!("the Deployment that runs {color}"));
        }
    }
    if let Some(rule) = needs("service") {
        for (color, spec) in colors.iter().filter(|(_, spec)| spec.service.is_none()) {
            lacks(rule, color, spec, "service", &format!("the Service that reaches {color} alone"));
        }
    }
}

/// Everything of a rule that has placeholders.
fn selectors(kind: &RuleKind) -> Vec<&str> {
    match kind {
        RuleKind::ErrorRate(counter) | RuleKind::Availability(counter) => vec![&counter.total, &counter.bad],
        RuleKind::Latency(latency) => vec![&latency.buckets],
        RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar) => vec![&scalar.expr],
        RuleKind::Probe(_) | RuleKind::Endpoints(_) => vec![],
    }
}
