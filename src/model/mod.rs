//! The shared nouns. Data and the little arithmetic that belongs to it: no IO, no clock, no import from another room.
//!
//! Reading order: who is guarded ([`name`], [`spec`], [`preset`]), what is live ([`traffic`]), who else writes it ([`owner`]), what was
//! measured ([`reading`], of old [`history`]), what follows from it ([`decision`]), what is kept ([`ledger`], [`incident`], [`isolated`], [`audit`]),
//! what stands against it ([`maintenance`]) and what a person lifts ([`lifted`]), what is told ([`announcement`], [`status`], [`flip_history`]) and what a person may ask
//! for ([`command`]); what went wrong, in one line, is a [`chain`] of causes.

pub mod announcement;
pub mod audit;
pub mod cause;
pub mod clock;
pub mod command;
pub mod decision;
pub mod flip_history;
pub mod history;
pub mod incident;
pub mod isolated;
pub mod ledger;
pub mod lifted;
pub mod maintenance;
pub mod name;
pub mod owner;
pub mod preset;
pub mod reading;
pub mod settings;
pub mod spec;
pub mod status;
pub mod traffic;

pub use announcement::{Announcement, Repeats, SAMPLE, Severity, Stage, Topic};
pub use audit::{Actor, AuditEntry};
pub use cause::chain;
pub use clock::Clock;
pub use command::{Command, CommandError, CommandReply};
pub use decision::{Case, Decision, Note, Outcome, Path, Reaction, Refusal, RuleState, Suppression, Trigger, Verdict};
pub use flip_history::{BadRelease, FlipHistory};
pub use history::{Evaluation, Past, Survey, Track};
pub use incident::{Incident, IncidentOutcome, Moment, TimelineEntry};
pub use isolated::{ISOLATED_LABEL, isolated_label};
pub use ledger::{Clear, Clearance, FlipRecord, Ledger, Pause};
pub use lifted::Lifted;
pub use maintenance::{Day, MaintenanceTime, MaintenanceWindow};
pub use name::{Color, GuardId, NameError, RuleName, file_segment};
pub use owner::{Advice, Owner, Tool};
pub use reading::{Absence, Counter, Held, Hold, Observation, Reading, Series};
pub use spec::{
    Action, AfterWatch, ColorSpec, Connections, CounterRule, EndpointsRule, EvidenceSpec, GuardSpec, Histogram, Judging, LatencyRule, Mode,
    Policy, Preset, ProbeRule, Reassert, Relief, RouteSpec, RuleKind, RuleSpec, ScalarRule, ScaleUp, ServiceRoute, TimeUnit, Windows,
};
pub use status::{
    ChatStatus, ColorStatus, ConfigStatus, FleetStatus, GuardStatus, IncidentSummary, MaintenanceStatus, Phase, RefusedConfig,
    ReplicaStatus, RuleStatus, ShardStatus, Status,
};
pub use traffic::{Endpoint, FIELD_MANAGER, Release, Seen, Side, Traffic, View};
