//! What is asked: the rules of all guards become few batched queries. Pure.
//!
//! One [`Read`] is one rule on one color. Its PromQL expressions are instant vectors of raw counters, added up per scrape target, since
//! the engine takes the differences itself (`rate` does not see the first errors of a fresh color). Many reads travel in one query:
//! each expression is tagged with `label_replace(.., "flipback", KEY, "", "")` and joined by `or`. Differently tagged vectors never
//! collide, so any hand-written selector can be told apart in the answer without understanding it. One query is one evaluation instant,
//! so total, bad and sample time of a read belong together; a read is therefore never divided over two queries.
//!
//! Hand-written expressions (`scalar`) are planned in the same way and never travel with counters: a slow one must not delay them.
//!
//! The `or`s are nested as a balanced tree: a chain would make the server compare the whole left side anew for each of its members.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use super::{
    native::{self, Native},
    scalar::{self, Scalar},
    selector::{ALL, Bound, Facts, fill, process_start, with_matcher},
};
use crate::model::{Absence, Color, ColorSpec, GuardId, GuardSpec, Histogram, Judging, RuleKind, RuleName, RuleSpec};

/// The labels by which scrape targets are told apart; `pod` is empty outside Kubernetes.
pub(super) const TARGET: &str = "job, instance, pod";

/// The label that carries an expression's key.
pub(super) const TAG: &str = "flipback";

/// Expressions in one query. Balanced, so many hundred cost the server little; bounded, so that one slow query blinds not all.
pub(super) const EXPRESSIONS_MAX: usize = 400;

/// Bytes of one query. Far below the 10 MB a server reads of a form and the 1 MiB that proxies allow, form encoding included.
pub(super) const QUERY_BYTES_MAX: usize = 128 * 1024;

/// Which reading is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    /// Whose.
    pub guard: GuardId,
    /// On which color.
    pub color: Color,
    /// By which rule.
    pub rule: RuleName,
}

/// What an expression of a read tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// All requests per target.
    Total,
    /// Bad requests per target.
    Bad,
    /// Requests up to the threshold, and all requests, per target and `le`.
    Buckets,
    /// Requests up to the threshold per target, of a native histogram.
    Fast,
    /// Time of the newest sample per target.
    Newest,
    /// Start time of the process per target.
    Started,
    /// The one number of a scalar, over the short window where there are two.
    Value,
    /// The same over the long window.
    Long,
    /// Requests within the window.
    Requests,
}

/// One rule on one color: everything needed to ask for it and to understand the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    /// Which.
    pub at: Address,
    /// The expressions, each with what it tells.
    pub expressions: Vec<(Role, String)>,
    /// What it reads.
    pub what: What,
}

/// What a read is made of, placeholders filled.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// Two counters.
    Counters {
        /// Selector of all requests.
        total: String,
        /// Selector of the bad ones.
        bad: String,
    },
    /// A histogram.
    Latency {
        /// Selector of the buckets, without `le`.
        buckets: String,
        /// Selector of the bucket that counts everything.
        total: String,
        /// Selector of the threshold's bucket.
        fast: String,
        /// The threshold.
        bound: Bound,
        /// The quantile of the objective.
        quantile: f64,
    },
    /// A native histogram.
    Native(Native),
    /// One number.
    Scalar(Scalar),
}

/// A planned rule, or the sentence that says why it cannot be.
pub(super) type Planned = Result<(What, Vec<(Role, String)>), String>;

impl Read {
    /// Plans one rule on one color; `None` when the rule needs no Prometheus.
    ///
    /// # Errors
    /// The named absence it will have for ever, when its selectors cannot be filled in.
    pub(super) fn new(spec: &GuardSpec, color: &Color, side: &ColorSpec, rule: &RuleSpec) -> Option<Result<Self, Absence>> {
        let facts = Facts {
            namespace: &spec.namespace,
            color: color.as_str(),
            value: &side.value,
            deployment: side.deployment.as_deref(),
            service: side.service.as_deref(),
        };
        let planned = match (&rule.kind, spec.policy.mode) {
            (RuleKind::Probe(_) | RuleKind::Endpoints(_), _) => return None,
            (RuleKind::Promql(scalar) | RuleKind::Throughput(scalar) | RuleKind::Saturation(scalar), _) => {
                scalar::expression(scalar, rule.windows, &facts)
            }
            (RuleKind::ErrorRate(rule) | RuleKind::Availability(rule), Judging::Intervals) => {
                Self::counters(&rule.total, &rule.bad, &facts)
            }
            (RuleKind::ErrorRate(rule) | RuleKind::Availability(rule), Judging::Classic) => {
                scalar::share(&rule.total, &rule.bad, spec.policy.window, &facts)
            }
            (RuleKind::Latency(rule), Judging::Classic) => scalar::quantile(rule, spec.policy.window_latency, &facts),
            (RuleKind::Latency(rule), Judging::Intervals) => {
                let bound = Bound::new(rule.threshold, rule.unit);
                match rule.histogram {
                    Histogram::Classic => Self::latency(&rule.buckets, bound, rule.quantile, &facts),
                    Histogram::Native => native::planned(&rule.buckets, bound, rule.quantile, &facts),
                }
            }
        };
        let at = Address {
            guard: spec.id.clone(),
            color: color.clone(),
            rule: rule.name.clone(),
        };
        Some(
            planned
                .map(|(what, expressions)| Self { at, expressions, what })
                .map_err(Absence::Error),
        )
    }

    fn counters(total: &str, bad: &str, facts: &Facts<'_>) -> Planned {
        let (total, bad) = both(total, bad, facts)?;
        let mut expressions = vec![
            (Role::Total, format!("sum by ({TARGET}) ({total})")),
            (Role::Bad, format!("sum by ({TARGET}) ({bad})")),
        ];
        expressions.extend(ages(&total, &total));
        Ok((What::Counters { total, bad }, expressions))
    }

    fn latency(buckets: &str, bound: Bound, quantile: f64, facts: &Facts<'_>) -> Planned {
        let buckets = fill(buckets, facts)?;
        let spellings = bound.spellings();
        let total = with_matcher(&buckets, &format!(r#"le=~"{ALL}""#))?;
        let fast = with_matcher(&buckets, &format!(r#"le=~"{spellings}""#))?;
        let both = with_matcher(&buckets, &format!(r#"le=~"{ALL}|{spellings}""#))?;
        let mut expressions = vec![(Role::Buckets, format!("sum by ({TARGET}, le) ({both})"))];
        expressions.extend(ages(&total, &buckets));
        let what = What::Latency {
            buckets,
            total,
            fast,
            bound,
            quantile,
        };
        Ok((what, expressions))
    }

    /// The expression of a role; every read has one for the roles it is decoded by.
    pub(super) fn expression(&self, role: Role) -> Option<&str> {
        self.expressions
            .iter()
            .find(|(known, _)| *known == role)
            .map(|(_, text)| text.as_str())
    }

    /// Selector of series that are as old and as often scraped as what is read; `None` where there is no telling.
    pub(super) fn sampled(&self) -> Option<&str> {
        match &self.what {
            What::Counters { total, .. } | What::Latency { total, .. } => Some(total),
            What::Native(native) => Some(&native.histogram),
            What::Scalar(scalar) => scalar.sampled(),
        }
    }

    /// Counts a histogram's series per bucket, which tells its bounds; `None` for whatever has none.
    pub(super) fn bounds(&self) -> Option<String> {
        let buckets = match &self.what {
            What::Latency { buckets, .. } => buckets,
            What::Scalar(scalar) => scalar.buckets()?,
            What::Counters { .. } | What::Native(_) => return None,
        };
        Some(format!("count by (le) ({buckets})"))
    }

    /// Whether it was written by hand, so that nothing is known of its type, its cost and its answer.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(&self.what, What::Scalar(scalar) if scalar.is_foreign())
    }
}

/// Both selectors of a share, filled.
pub(super) fn both(total: &str, bad: &str, facts: &Facts<'_>) -> Result<(String, String), String> {
    if total.trim().is_empty() || bad.trim().is_empty() {
        return Err("a selector is empty: set both `total` and `bad`, or choose a preset".to_owned());
    }
    Ok((fill(total, facts)?, fill(bad, facts)?))
}

/// Sample time and process start of the targets behind `total`.
pub(super) fn ages(total: &str, selector: &str) -> [(Role, String); 2] {
    [
        (Role::Newest, format!("max by ({TARGET}) (timestamp({total}))")),
        // The oldest process of a target: a target is new only when all of it is.
        (Role::Started, format!("min by ({TARGET}) ({})", process_start(selector))),
    ]
}

/// What one Prometheus is asked about some guards.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// What can be asked.
    pub reads: Vec<Arc<Read>>,
    /// What can never be asked, and why.
    pub refused: Vec<(Address, Absence)>,
}

impl Plan {
    /// Plans every rule of every color of `guards` that needs a Prometheus.
    pub(super) fn new<'a>(guards: impl IntoIterator<Item = &'a GuardSpec>) -> Self {
        let mut plan = Self::default();
        for spec in guards {
            for (color, side) in &spec.colors {
                for rule in &spec.rules {
                    match Read::new(spec, color, side, rule) {
                        Some(Ok(read)) => plan.reads.push(Arc::new(read)),
                        Some(Err(why)) => {
                            let at = Address {
                                guard: spec.id.clone(),
                                color: color.clone(),
                                rule: rule.name.clone(),
                            };
                            plan.refused.push((at, why));
                        }
                        None => {}
                    }
                }
            }
        }
        plan
    }
}

/// Some expressions, each asked once, in one query.
#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    expressions: Vec<&'a str>,
    keys: HashMap<&'a str, usize>,
}

impl<'a> Query<'a> {
    /// Adds an expression, unless it is known.
    pub(super) fn add(&mut self, expression: &'a str) {
        let next = self.expressions.len();
        if *self.keys.entry(expression).or_insert(next) == next {
            self.expressions.push(expression);
        }
    }

    /// The key under which the answer carries an expression.
    pub(super) fn key(&self, expression: &str) -> Option<usize> {
        self.keys.get(expression).copied()
    }

    /// The query as sent.
    pub(super) fn text(&self) -> String {
        let mut out = String::with_capacity(self.expressions.iter().map(|e| e.len() + TAGGING_BYTES).sum());
        nest(&self.expressions, 0, &mut out);
        out
    }
}

/// Bytes that tagging and joining add to one expression, at most.
const TAGGING_BYTES: usize = 52;

/// Writes `expressions`, the first of which has key `first`, as a balanced tree of `or`s.
fn nest(expressions: &[&str], first: usize, out: &mut String) {
    match expressions {
        [] => {}
        [only] => {
            // Writing to a String cannot fail.
            let _ = write!(out, r#"label_replace({only}, "{TAG}", "{first}", "", "")"#);
        }
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            out.push('(');
            nest(left, first, out);
            out.push_str(" or ");
            nest(right, first + left.len(), out);
            out.push(')');
        }
    }
}

/// Divides reads into groups that fit one query of `bytes_max` each, never a read over two.
pub(super) fn chunks(reads: Vec<Arc<Read>>, bytes_max: usize) -> Vec<Vec<Arc<Read>>> {
    let mut groups: Vec<Vec<Arc<Read>>> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for read in reads {
        let size = bytes_of(&read);
        let fits = count + read.expressions.len() <= EXPRESSIONS_MAX && bytes + size <= bytes_max;
        match groups.last_mut() {
            Some(group) if fits => group.push(read.clone()),
            _ => {
                groups.push(vec![read.clone()]);
                (count, bytes) = (0, 0);
            }
        }
        count += read.expressions.len();
        bytes += size;
    }
    groups
}

/// Bytes a read adds to a query, at most: expressions it shares with others are counted again.
pub(super) fn bytes_of(read: &Read) -> usize {
    read.expressions.iter().map(|(_, text)| text.len() + TAGGING_BYTES).sum()
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::model::{Action, CounterRule, EvidenceSpec, LatencyRule, Mode, Policy, Preset, RouteSpec, ServiceRoute, TimeUnit};

    /// A guard with the presets' rules: errors, p95 and p99, blue and green.
    pub(in crate::observe) fn guard(name: &str) -> GuardSpec {
        let rule = |name: &str, kind| RuleSpec {
            name: RuleName::new(name).expect("a name"),
            kind,
            action: Action::Rollback,
            critical: false,
            windows: None,
        };
        let latency = |quantile, millis| {
            RuleKind::Latency(LatencyRule {
                quantile,
                threshold: Duration::from_millis(millis),
                unit: TimeUnit::Seconds,
                buckets: Preset::PrometheusHttp.buckets().to_owned(),
                histogram: Histogram::Classic,
            })
        };
        let color = |color: &str| {
            let side = ColorSpec {
                value: color.to_owned(),
                deployment: Some(format!("{name}-{color}")),
                service: None,
            };
            (Color::new(color).expect("a name"), side)
        };
        GuardSpec {
            id: GuardId::new("", "shop", name).expect("a name"),
            cluster: String::new(),
            namespace: "shop".to_owned(),
            route: RouteSpec::Service(ServiceRoute {
                active: name.to_owned(),
                preview: None,
                selector_key: "color".to_owned(),
            }),
            colors: BTreeMap::from([color("blue"), color("green")]),
            rules: vec![
                rule(
                    "error_rate",
                    RuleKind::ErrorRate(CounterRule {
                        threshold: 0.05,
                        total: Preset::PrometheusHttp.total().to_owned(),
                        bad: Preset::PrometheusHttp.bad().to_owned(),
                    }),
                ),
                rule("p95", latency(0.95, 1000)),
                rule("p99", latency(0.99, 2500)),
            ],
            policy: Policy::default(),
            mode: Mode::Enforce,
            scale_up: None,
            connections: crate::model::Connections::default(),
            maintenance: Vec::new(),
            evidence: EvidenceSpec::default(),
            chats: Vec::new(),
            config_hash: String::new(),
        }
    }

    fn query(reads: &[Arc<Read>]) -> String {
        let mut query = Query::default();
        for (_, expression) in reads.iter().flat_map(|read| &read.expressions) {
            query.add(expression);
        }
        query.text()
    }

    #[test]
    fn one_guards_query_is_one_tree_of_tagged_expressions() {
        let plan = Plan::new([&guard("web")]);
        assert!(plan.refused.is_empty());
        insta::assert_snapshot!(query(&plan.reads).replace(" or label", "\nor label").replace(" or (", "\nor ("));
    }

    #[test]
    fn expressions_that_several_rules_need_are_asked_once() {
        let plan = Plan::new([&guard("web")]);
        let all: usize = plan.reads.iter().map(|read| read.expressions.len()).sum();
        let mut asked = Query::default();
        for (_, expression) in plan.reads.iter().flat_map(|read| &read.expressions) {
            asked.add(expression);
        }
        // Per color: the start time is common to three rules, the histogram's sample time to two.
        assert_eq!((all, asked.expressions.len()), (20, 14));
        assert_eq!(asked.key(plan.reads[0].expression(Role::Total).expect("a total")), Some(0));
        assert_eq!(asked.key("up"), None);
    }

    #[test]
    fn two_hundred_guards_fit_a_few_queries_within_bounds() {
        let guards: Vec<GuardSpec> = (0..200).map(|n| guard(&format!("web-{n}"))).collect();
        let plan = Plan::new(&guards);
        assert_eq!(plan.reads.len(), 200 * 2 * 3);
        let groups = chunks(plan.reads, QUERY_BYTES_MAX);
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 1200);
        assert!(groups.len() <= 12, "{} queries", groups.len());
        for group in &groups {
            assert!(query(group).len() <= QUERY_BYTES_MAX);
        }
    }

    #[test]
    fn a_read_larger_than_a_query_may_be_still_travels_alone() {
        let plan = Plan::new([&guard("web")]);
        let groups = chunks(plan.reads, 10);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1; 6]);
    }

    #[test]
    fn a_color_without_a_deployment_is_refused_by_name_and_the_other_is_not() {
        let mut spec = guard("web");
        spec.colors
            .get_mut(&Color::new("green").expect("a name"))
            .expect("green")
            .deployment = None;
        let plan = Plan::new([&spec]);
        assert_eq!((plan.reads.len(), plan.refused.len()), (3, 3));
        assert!(
            plan.refused
                .iter()
                .all(|(at, why)| at.color.as_str() == "green" && why.to_string().contains("names no deployment"))
        );
    }
}
