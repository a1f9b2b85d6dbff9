//! What must be known before a past is read.

use std::time::Duration;

use super::{CLOSE_LOOK, Form, History, RAW_SERIES_MAX, SPACING_ASSUMED, then, whole};
use crate::{
    model::{Absence, Color, Judging, RuleName, RuleSpec, Survey},
    observe::{
        ObserveError,
        answer::{Bounds, median, number},
        envelope::Sample,
        plan::{Read, What, ages},
        prometheus::{Failure, Span},
        scalar::Scalar,
        selector::Bound,
    },
};

impl History<'_> {
    /// Learns what must be known before the past is read: scrape spacings, buckets, what is refused, whether Ready endpoints are known.
    ///
    /// # Errors
    /// [`ObserveError::Query`] when the server does not answer.
    pub async fn survey(&mut self) -> Result<Vec<Survey>, ObserveError> {
        let mut found = Vec::new();
        for read in self.reads.clone() {
            let survey = self.survey_read(&read).await?;
            if let Some(why) = &survey.refused {
                self.refused.insert((survey.color.clone(), survey.rule.clone()), why.clone());
            }
            self.targets = self.targets.max(u64::from(survey.targets));
            found.push(survey);
        }
        let of_counters = |survey: &&Survey| self.spec.rules.iter().any(|rule| rule.name == survey.rule && !self.is_number(rule));
        let spacing = found.iter().filter(of_counters).filter_map(|survey| survey.spacing).min();
        self.step = whole(spacing.unwrap_or(SPACING_ASSUMED).max(self.spec.policy.poll));
        for ((color, rule), why) in &self.refused {
            if !found.iter().any(|survey| survey.color == *color && survey.rule == *rule) {
                found.push(blank(color, rule, Some(why.clone())));
            }
        }
        self.find_ready().await?;
        self.asks = self.plan();
        Ok(found)
    }

    /// Whether a rule is judged by a number instead of counters.
    fn is_number(&self, rule: &RuleSpec) -> bool {
        rule.kind.scalar().is_some() || self.spec.policy.mode == Judging::Classic
    }

    /// Time between two points of a read.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.step
    }

    /// The colors whose Ready endpoints somebody counted.
    #[must_use]
    pub fn counted(&self) -> Vec<Color> {
        self.ready.iter().map(|(color, _)| color.clone()).collect()
    }

    async fn survey_read(&mut self, read: &Read) -> Result<Survey, ObserveError> {
        let mut survey = blank(&read.at.color, &read.at.rule, None);
        for (_, text) in &read.expressions {
            match self.try_ask(text, Span::Range(self.until, self.until, 1.0)).await {
                Ok(_) => {}
                Err(Failure::Refused(why)) => {
                    survey.refused = Some(Absence::Error(why));
                    return Ok(survey);
                }
                Err(failure) => return Err(self.gave_up(&failure)),
            }
        }
        // What is scraped less often than it is asked for shows the same again: the spacing is measured where there is a selector to tell.
        if let Some(selector) = read.sampled() {
            let [(_, newest), _] = ages(selector, selector);
            (survey.spacing, survey.targets) = match self.close_look(&newest).await {
                Ok(found) => found,
                Err(Failure::Refused(_)) => (None, 0),
                Err(failure) => return Err(self.gave_up(&failure)),
            };
            // Raw native histograms carry all of their buckets.
            let plain = matches!(read.what, What::Counters { .. } | What::Latency { .. });
            if plain && self.is_raw_cheap(selector, survey.targets).await? {
                self.raw.insert(newest, selector.to_owned());
            }
        }
        if let (Some(bound), Some(expression)) = (bound(read), read.bounds()) {
            // Buckets as they were over the last hours: a color may be scaled away by now.
            let span = Span::Range((self.until - 6 * 3600).max(self.next), self.until, 600.0);
            if let Ok(answer) = self.try_ask(&expression, span).await {
                let samples: Vec<Sample> = answer.samples.into_iter().map(newest_of).collect();
                survey.objection = Bounds::new(&samples.iter().collect::<Vec<_>>()).objection(bound);
            }
        }
        Ok(survey)
    }

    /// The spacing of scrapes and the number of targets, from three close looks: a scrape interval may have been changed on the way.
    async fn close_look(&self, newest: &str) -> Result<(Option<Duration>, u32), Failure> {
        let (mut spacings, mut targets) = (Vec::new(), 0);
        let first = self.next.min(self.until - CLOSE_LOOK);
        for from in [first, first + (self.until - first) / 2, self.until - CLOSE_LOOK] {
            let form = Form::Dear(Duration::from_secs(1));
            let samples = self.over_or_refused(newest, from, from + CLOSE_LOOK, form).await?;
            targets = targets.max(samples.len());
            let per_target = samples.iter().filter_map(|sample| {
                let mut times: Vec<f64> = sample.values.iter().map(|(_, text)| number(text)).collect();
                times.dedup_by(|a, b| a.total_cmp(b).is_eq());
                median(times.windows(2).map(|pair| pair[1] - pair[0]))
            });
            spacings.extend(per_target.min());
        }
        // Scrapes jitter by milliseconds; a step must not.
        let spacing = spacings.into_iter().min();
        let rounded = spacing.map(|spacing| Duration::from_secs_f64((spacing.as_secs_f64() * 10.0).round().max(10.0) / 10.0));
        Ok((rounded, u32::try_from(targets).unwrap_or(u32::MAX)))
    }

    /// Whether a selector's raw samples may be read: it is a plain one, and there are not many series behind it.
    async fn is_raw_cheap(&self, selector: &str, targets: u32) -> Result<bool, ObserveError> {
        let middle = self.next + (self.until - self.next) / 2;
        for at in [middle, self.until] {
            let text = format!("{selector}[{CLOSE_LOOK}s]");
            match self.try_ask(&text, then(at)).await {
                Ok(answer) if answer.samples.len() <= RAW_SERIES_MAX * (targets.max(1) as usize) => {}
                Ok(_) | Err(Failure::Refused(_)) => return Ok(false),
                Err(failure) => return Err(self.gave_up(&failure)),
            }
        }
        Ok(true)
    }

    /// Finds out who knows the Ready endpoints: an earlier flipback, else kube-state-metrics.
    async fn find_ready(&mut self) -> Result<(), ObserveError> {
        for (color, side) in &self.spec.colors {
            let mut sources = vec![format!(
                r#"max(flipback_ready_endpoints{{guard="{}",color="{color}"}})"#,
                self.spec.id
            )];
            if let Some(deployment) = &side.deployment {
                sources.push(format!(
                    r#"max(kube_deployment_status_replicas_ready{{namespace="{}",deployment="{deployment}"}})"#,
                    self.spec.namespace
                ));
            }
            if let Some(service) = &side.service {
                sources.push(format!(
                    r#"max(kube_endpoint_address_available{{namespace="{}",endpoint="{service}"}})"#,
                    self.spec.namespace
                ));
            }
            let every = ((self.until - self.next) / 100).max(60);
            for text in sources {
                let span = Span::Range(self.next, self.until, every as f64);
                match self.try_ask(&text, span).await {
                    Ok(answer) if !answer.samples.is_empty() => {
                        self.ready.push((color.clone(), text));
                        break;
                    }
                    Ok(_) | Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(self.gave_up(&failure)),
                }
            }
        }
        Ok(())
    }
}

fn blank(color: &Color, rule: &RuleName, refused: Option<Absence>) -> Survey {
    Survey {
        color: color.clone(),
        rule: rule.clone(),
        spacing: None,
        targets: 0,
        refused,
        objection: None,
    }
}

/// A matrix series as the instant it ends with.
fn newest_of(sample: Sample) -> Sample {
    Sample {
        value: sample.values.last().cloned(),
        values: Vec::new(),
        ..sample
    }
}

/// The threshold of a read that has buckets.
fn bound(read: &Read) -> Option<&Bound> {
    match &read.what {
        What::Latency { bound, .. } | What::Scalar(Scalar::Quantile { bound, .. }) => Some(bound),
        What::Counters { .. } | What::Native(_) | What::Scalar(_) => None,
    }
}
