//! flipback watches the live color of a blue-green deployment and puts traffic back on the last good color when the
//! live one goes bad. This is the trip of one observation, in reading order.

pub mod model;

pub mod decide;

pub mod plot;

pub mod backtest;

pub mod observe;

pub mod router;

pub mod evidence;

pub mod words;

pub mod notify;

pub mod audit;

pub mod cluster;

pub mod serve;

pub mod monitor;

pub mod config;

pub mod cli;

pub mod sandbox;

pub mod metrics;
pub mod telemetry;

#[doc(hidden)]
pub mod fuzzing;
