//! Which function makes which call: `RECORD_CALLS` names a file to which every new kind of call is added
//! as a line.

use std::{
    collections::HashSet,
    fs::File,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::BoxError,
};
use user_api_keys::telemetry;

use crate::calls::calls;

/// Adds new kinds of calls to a file.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    file: PathBuf,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl Recorder {
    /// A recorder, where `RECORD_CALLS` asks for one.
    pub(crate) fn from_env() -> Option<Self> {
        Some(Self {
            file: std::env::var_os("RECORD_CALLS")?.into(),
            seen: Arc::default(),
        })
    }

    fn add(&self, line: String) -> std::io::Result<()> {
        let new = self
            .seen
            .lock()
            .is_ok_and(|mut seen| seen.insert(line.clone()));
        if new {
            let mut file = File::options().create(true).append(true).open(&self.file)?;
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }
}

impl Intercept for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(function) = telemetry::function() else {
            return Ok(());
        };
        let request = context.request();
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let body = request.body().bytes().unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        for call in calls(operation, &serde_json::from_slice(body)?) {
            self.add(format!("{call} : {function}"))?;
        }
        Ok(())
    }
}
