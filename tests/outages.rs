//! What stands around the daemon breaks while a release is bad and the other color able: the API server, its watches, the etcd
//! beneath it, Prometheus, the disk. Whatever breaks, and however it comes back, exactly one flip is in effect, nothing is flipped
//! on what is stale, and what people were told is true in the end.
//!
//! Witnesses are the API server's audit log, a watch of the test's own on the Service, the ledger, the folders on disk and
//! what the chat has accepted, never the daemon.

pub mod support;

mod outages {
    pub mod answers;
    pub mod apiserver;
    pub mod disk;
    pub mod etcd;
    pub mod prometheus;
    pub mod scene;
    pub mod watches;
}
