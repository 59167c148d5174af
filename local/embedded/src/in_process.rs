//! What carries the SDK clients' requests to the services: a function call, so that there is no port.

use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    },
    orchestrator::{HttpRequest, HttpResponse},
    runtime_components::RuntimeComponents,
};
use tokio::task::coop::consume_budget;

use crate::services::Services;

/// Stands where the SDK's HTTP client would.
#[derive(Clone)]
pub(crate) struct InProcess(pub(crate) Services);

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InProcess")
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(services) = self.clone();
        HttpConnectorFuture::new(async move {
            // Nothing below waits, and a job of many calls must leave the thread to others now and then.
            consume_budget().await;
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            let answer = services.answer(target, request.body().bytes().unwrap_or_default());
            Ok(HttpResponse::new(answer.status.into(), answer.body.into()))
        })
    }
}

impl HttpClient for InProcess {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
