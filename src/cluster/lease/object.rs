//! The Leases as they are written, pure. What somebody else wrote on one stays.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

/// A Lease that nobody holds, and that nobody may take before a holder of a deleted one must have stopped.
pub(super) fn made(namespace: &str, name: &str, duration: Duration, at: Timestamp) -> Lease {
    Lease {
        metadata: metadata(namespace, name),
        spec: Some(LeaseSpec {
            lease_duration_seconds: seconds(duration),
            renew_time: Some(MicroTime(at)),
            ..LeaseSpec::default()
        }),
    }
}

/// The Lease with `me` in it.
pub(super) fn held(read: &Lease, me: &str, duration: Duration, at: Timestamp) -> Lease {
    let mut lease = read.clone();
    let at = Some(MicroTime(at));
    let before = lease.spec.take().unwrap_or_default();
    let ours = before.holder_identity.as_deref() == Some(me);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: seconds(duration),
        acquire_time: if ours { before.acquire_time.clone() } else { at.clone() },
        renew_time: at,
        lease_transitions: Some(before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!ours))),
        ..before
    });
    lease
}

/// The Lease with nobody in it, to be taken at once.
pub(super) fn freed(read: &Lease, at: Timestamp) -> Lease {
    let mut lease = read.clone();
    let before = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: None,
        lease_duration_seconds: None,
        acquire_time: None,
        renew_time: Some(MicroTime(at)),
        ..before
    });
    lease
}

pub(super) fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "flipback".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn seconds(duration: Duration) -> Option<i32> {
    i32::try_from(duration.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Act, Observed, Record, Wish, next},
        *,
    };

    const MINE: Duration = Duration::from_secs(15);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    #[test]
    fn what_is_written_reads_as_it_was_meant() {
        let says = |lease: &Lease, now: u64| {
            let observed = Observed::see(None, Some(Record::of(lease)), Duration::ZERO);
            next(&observed, "me", MINE, Duration::from_secs(now), Wish::Hold)
        };
        let new = made("ops", "flipback-shard-0", MINE, at(0));
        assert_eq!((says(&new, 14), says(&new, 15)), (Act::Follow, Act::Take));
        let ours = held(&new, "me", MINE, at(1));
        assert_eq!(says(&ours, 0), Act::Renew);
        let theirs = held(&ours, "other", MINE, at(2));
        assert_eq!((says(&theirs, 14), says(&theirs, 15)), (Act::Follow, Act::Take));
        assert_eq!(says(&freed(&theirs, at(3)), 0), Act::Take);
    }

    #[test]
    fn a_renewal_keeps_what_others_wrote_and_when_it_was_taken() {
        let mut lease = held(&made("ops", "flipback-shard-0", MINE, at(0)), "me", MINE, at(1));
        lease.metadata.resource_version = Some("7".into());
        lease.metadata.annotations = Some(BTreeMap::from([("team".to_owned(), "shop".to_owned())]));
        let renewed = held(&lease, "me", MINE, at(9));
        assert_eq!(renewed.metadata, lease.metadata, "with the version that was read");
        let spec = |lease: &Lease| lease.spec.clone().expect("a spec");
        assert_eq!(spec(&renewed).acquire_time, Some(MicroTime(at(1))));
        assert_eq!(spec(&renewed).renew_time, Some(MicroTime(at(9))));
        assert_eq!(spec(&renewed).lease_transitions, Some(1));
        let taken = held(&renewed, "other", MINE, at(20));
        assert_eq!(
            (spec(&taken).lease_transitions, spec(&taken).acquire_time),
            (Some(2), Some(MicroTime(at(20))))
        );
    }
}
