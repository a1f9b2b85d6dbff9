//! All that is made of one answer's body, in one step: what fuzzers throw things at. A look takes the same steps
//! (`source`), with requests between them and a memory.

use super::{
    answer::{Bounds, Raw, Sorted, Spacing, reading},
    envelope::{Envelope, Sample},
    native::Ratchet,
    plan::{Plan, Query, What},
    scalar,
};
use crate::model::{Absence, Color, GuardSpec, Reading, RuleName};

/// What would be made of this body to everything that is asked about `spec`.
pub(crate) fn understand(spec: &GuardSpec, body: &[u8]) -> Vec<(Color, RuleName, Reading)> {
    let plan = Plan::new([spec]);
    let absent = |why: &str| {
        let reads = plan.reads.iter().map(|read| &read.at);
        let told = |why: &str| Reading::Absent(Absence::Error(why.to_owned()));
        reads.map(|at| (at.color.clone(), at.rule.clone(), told(why))).collect()
    };
    let envelope = match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) if envelope.status == "success" => envelope,
        Ok(envelope) => return absent(&format!("refused: {}", envelope.error.unwrap_or_default())),
        Err(error) => return absent(&error.to_string()),
    };
    let answer = envelope.into_answer();
    let mut query = Query::default();
    for (_, expression) in plan.reads.iter().flat_map(|read| &read.expressions) {
        query.add(expression);
    }
    let sorted = Sorted::new(&answer);
    let all: Vec<&Sample> = answer.samples.iter().collect();
    let bounds = Bounds::new(&all);
    let mut spacing = Spacing::default();
    let mut understood = Vec::new();
    for read in &plan.reads {
        let raw = Raw::new(read, &query, &sorted);
        spacing.note(&raw.newest);
        let reading = match (&answer.doubt, &read.what) {
            (Some(why), _) => Reading::Absent(Absence::Partial(why.clone())),
            (None, What::Scalar(_)) => scalar::reading(read, &query, &sorted),
            (None, What::Native(_)) => Ratchet::default().smooth(reading(read, &raw, spacing.stale_after())),
            (None, What::Counters { .. } | What::Latency { .. }) => reading(read, &raw, spacing.stale_after()),
        };
        if let What::Latency { bound, .. } = &read.what {
            let said = bounds.objection(bound);
            assert!(said.is_none_or(|why| !why.is_empty()), "an objection without words");
        }
        understood.push((read.at.color.clone(), read.at.rule.clone(), reading));
    }
    understood
}
