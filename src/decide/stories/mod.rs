//! Stories: one line per look, readable by someone who does not know Rust.
//!
//! Left of `->` is what happened since the last look, right of it what the engine must say. Times are seconds; `t=5..60`
//! is one line for every look from 5 to 60. Green is active and blue the standby unless told otherwise.
//!
//! | left | meaning |
//! | --- | --- |
//! | `500/62` | green (the active color) served 500 requests, 62 of them bad |
//! | `latency:500/29` | of 500 requests 29 were slower than the threshold |
//! | `availability:5000/40` | 5000 requests, 40 of them bad, for the rule of that name |
//! | `standby:100/80` `red:100/80` | the same as the first line for the standby color / for a third one |
//! | `tokens=1.3` `tokens=1.3/1.0` | the number of the rule `tokens`, for green / for green and for blue |
//! | `tokens.long=1.1/1.0` | the same over the rule's long window |
//! | `tokens.before=1.0` `tokens.requests=40` | what the source says of before the switch / how many requests are behind it |
//! | `timeout` `nan` `empty` | there was no usable answer |
//! | `stale` | the same sample as last time |
//! | `probe=2/3` `standby-probe=2/3` | 2 of 3 probes of green / of blue failed |
//! | `unwatched` | at this look nobody can see the endpoints; the counts are the last known |
//! | `unavailable` | at this look the standby's Deployment says that it is not available |
//! | `desired=0` | replicas asked for of the standby, from now on |
//! | `awaits=15` | at the next start it is told that the standby is waited for since then |
//! | `ready=3/0` | Ready endpoints of active / standby, from now on |
//! | `switch` `release=v2` | somebody moved traffic to the other color / deployed over the active one |
//! | `flip` `rollback-by-hand` | flipback's own flip / a person's, as the ledger tells |
//! | `switch-by=argocd-controller` | the same, and the object tells who it was |
//! | `flip-and-back-by=argocd-controller` | flipback's flip, and somebody's undoing of it before the next look |
//! | `forget` `arm` | ada takes back that a release is bad / the flips that disarmed the guard |
//! | `pause` `resume` `unreadable` `unknown` `restart` `clock=3600` | what the words say |
//!
//! Right: the verdict (`hold` where none is named), `breach 1/3`, `pass`, `waiting`, `inconclusive`, `nothing` for the
//! first rule (`latency: breach 1/3` for another), `shows 0.992 under 0.999` for its value and threshold, `path fast`, `phase blind`, `note blind`, `quiet` (nothing is told)
//! and `why: ...` for a part of the sentence.

mod availability;
mod blame;
mod classic;
mod clockwork;
mod flips;
mod meddlers;
mod numbers;
mod paths;
mod scripts;
mod standby;
mod windows;
mod world;

use world::World;

/// Plays a story with the default rules.
fn story(text: &str) {
    World::default().play(text);
}
