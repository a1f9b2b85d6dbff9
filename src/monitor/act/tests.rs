use super::*;
use crate::{
    config::Config,
    monitor::{
        World, assemble,
        resume::tests::{at, begun, flip, guard, spec},
    },
};

/// A conductor of one guard, whose cluster does not answer.
pub(in crate::monitor) fn conductor(folder: &std::path::Path) -> Monitor {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config {
        guards: vec![Arc::new(spec(None, Mode::Enforce))],
        data_dir: folder.to_owned(),
        ..Config::default()
    };
    config.clusters[0].kubeconfig = Some("/nowhere/kubeconfig".into());
    let stop = CancellationToken::new();
    assemble(&config, &World::real(), &stop).expect("assembles").monitor
}

/// The same while the guard's rollback is under way, and what brings its end.
fn flipping(folder: &std::path::Path) -> (Monitor, impl FnOnce(Result<Flip, RouterError>) -> Done + use<>) {
    let mut monitor = conductor(folder);
    monitor.holds.begun(&guard(), at(0));
    let done = |flip: Result<Flip, RouterError>| Done {
        guard: guard(),
        order: Order {
            incident: begun(&self::flip("i1", 0)),
            automatic: true,
            bad: true,
            dry_run: false,
            known: None,
            reply: None,
        },
        flip,
        at: at(1),
    };
    (monitor, done)
}

#[tokio::test]
async fn a_flip_that_moved_nothing_leaves_the_blast_radius_to_others() {
    let not_leading = || {
        Err(RouterError::NotLeading {
            attempted: "switch",
            object: "Service \"shop/web\"".to_owned(),
        })
    };
    let moved = || {
        Ok(Flip::Moved {
            took: Duration::from_millis(12),
            resource_version: "8".to_owned(),
            preview_error: None,
        })
    };
    let cases = [
        ("not sent, since another replica leads", not_leading(), 0),
        ("somebody else had moved the route", Ok(Flip::Stale), 0),
        ("moved", moved(), 1),
    ];
    for (what, flip, counted) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut monitor, done) = flipping(folder.path());
        assert_eq!(monitor.fleet(at(1)).guards().len(), 1, "{what}: on its way it counts");
        monitor.flipped(done(flip), at(1));
        assert_eq!(monitor.fleet(at(2)).guards().len(), counted, "{what}");
    }
}
