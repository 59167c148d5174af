//! What a request may say.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use user_api_keys::{
    config::{Config, is_model_name},
    endpoint::{Call, whole},
    problem::Problem,
    provider::Provider,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema, Type},
};

use crate::{
    Action,
    dialect::Prompt,
    exa::{DOMAINS_MAX, RESULTS_MAX, Research, is_domain},
};

const BODY_MAX_BYTES: usize = 256 * 1024;
const PROMPT_MAX_CHARS: usize = 200_000;
const OUTPUT_TOKENS_MAX: u32 = 1_000_000;
const TEMPERATURE_MAX: f32 = 2.0;
const FALLBACKS_MAX: usize = 3;

/// What to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "Say hello", "temperature": 0.5}))]
pub(crate) struct GenerateRequest {
    #[schema(min_length = 1, max_length = 200_000, pattern = "\\S")]
    prompt: String,
    /// `gemini`, if left out.
    #[schema(value_type = Option<WriterName>)]
    provider: Option<String>,
    #[schema(pattern = "^[a-z0-9][a-z0-9.-]{0,63}$")]
    model: Option<String>,
    /// How to write it.
    system: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    #[schema(required = false, minimum = 1, maximum = 1_000_000)]
    max_output_tokens: Option<u32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// The person's own other credentials, in order, for when the first provider is down or out of
    /// quota before anything was written.
    #[schema(max_items = 3)]
    fallback: Option<Vec<Fallback>>,
    /// Look for sources first, with the person's own Exa key.
    #[serde(default, deserialize_with = "research")]
    #[schema(schema_with = research_schema, required = false)]
    research: Option<Research>,
    /// Send the text as it comes, as server-sent events.
    stream: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Fallback {
    #[schema(value_type = WriterName)]
    provider: String,
    #[schema(pattern = "^[a-z0-9][a-z0-9.-]{0,63}$")]
    model: Option<String>,
}

/// A provider that writes text.
struct WriterName;

impl PartialSchema for WriterName {
    fn schema() -> RefOr<Schema> {
        let writers = Provider::ALL.iter().filter(|p| p.facts().writes.is_some());
        let names = ObjectBuilder::new().schema_type(Type::String);
        let names = names.enum_values(Some(writers.map(|p| p.name())));
        names.build().into()
    }
}

impl ToSchema for WriterName {}

/// `true`, or what to look for.
fn research<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Research>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(Research::default())),
        value if value.is_object() => {
            let research = serde_json::from_value(value);
            research
                .map(Some)
                .map_err(|_| de::Error::custom("research"))
        }
        _ => Err(de::Error::custom("research")),
    }
}

fn research_schema() -> RefOr<Schema> {
    OneOfBuilder::new()
        .item(Option::<bool>::schema())
        .item(Ref::from_schema_name("Research"))
        .into()
}

const SHAPE: &str = "prompt (text of 1 to 200,000 characters), and if you like provider, model, \
                     system (texts), max_output_tokens (1 to 1,000,000), temperature (0 to 2), fallback \
                     (at most 3 of provider and model), research (true, or num_results 1 to 8, \
                     include_domains, exclude_domains, start_published_date, required) and stream";

/// A request that makes sense.
pub(crate) struct Job {
    pub(crate) prompt: Prompt,
    /// Whom to ask, in order; never empty.
    pub(crate) choices: Vec<Choice>,
    pub(crate) research: Option<Research>,
    pub(crate) stream: bool,
}

/// A provider and its model.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) provider: Provider,
    pub(crate) model: String,
}

impl Job {
    /// What `call` asks for.
    pub(crate) fn of(call: &Call<Action>, models: &Models) -> Result<Self, Problem> {
        let request: GenerateRequest = call.json(BODY_MAX_BYTES, SHAPE)?;
        let wrong = || Problem::invalid_request(format!("Send {SHAPE}."));
        let first = request
            .provider
            .unwrap_or_else(|| Provider::Gemini.name().to_owned());
        let mut choices = vec![models.choice(&first, request.model)?];
        let fallback = request.fallback.unwrap_or_default();
        if fallback.len() > FALLBACKS_MAX {
            return Err(wrong());
        }
        for other in fallback {
            choices.push(models.choice(&other.provider, other.model)?);
        }
        let characters = request.prompt.chars().count();
        let prompt_fits =
            (1..=PROMPT_MAX_CHARS).contains(&characters) && !request.prompt.trim().is_empty();
        let tokens_fit = |tokens| (1..=OUTPUT_TOKENS_MAX).contains(&tokens);
        let warm = |temperature| (0.0..=TEMPERATURE_MAX).contains(&temperature);
        if !prompt_fits
            || !request.max_output_tokens.is_none_or(tokens_fit)
            || !request.temperature.is_none_or(warm)
            || !request.research.as_ref().is_none_or(makes_sense)
        {
            return Err(wrong());
        }
        Ok(Self {
            prompt: Prompt {
                text: request.prompt,
                system: request.system,
                max_output_tokens: request.max_output_tokens,
                temperature: request.temperature,
            },
            choices,
            research: request.research,
            stream: request.stream.unwrap_or_else(|| call.accepts_events()),
        })
    }
}

fn makes_sense(research: &Research) -> bool {
    let lists = [&research.include_domains, &research.exclude_domains];
    let date = |date: &String| OffsetDateTime::parse(date, &Rfc3339).is_ok();
    research
        .num_results
        .is_none_or(|n| (1..=RESULTS_MAX).contains(&n))
        && lists
            .into_iter()
            .flatten()
            .all(|list| list.len() <= DOMAINS_MAX && list.iter().all(|domain| is_domain(domain)))
        && research.start_published_date.as_ref().is_none_or(date)
}

/// Which models are used where nobody names one, and which may be named.
pub(crate) struct Models {
    standard: Vec<Choice>,
    allowed: Vec<String>,
}

impl Models {
    /// As `config` says.
    pub(crate) fn new(config: &Config) -> Self {
        let writers = Provider::ALL.iter().filter(|p| p.facts().writes.is_some());
        let standard = writers.map(|&provider| Choice {
            provider,
            model: config.model(provider).to_owned(),
        });
        Self {
            standard: standard.collect(),
            allowed: config.allowed_models.clone(),
        }
    }

    /// Everybody who writes.
    pub(crate) fn writers(&self) -> impl Iterator<Item = Provider> {
        self.standard.iter().map(|choice| choice.provider)
    }

    fn choice(&self, provider: &str, model: Option<String>) -> Result<Choice, Problem> {
        let provider: Provider = provider.parse()?;
        let standard = self
            .standard
            .iter()
            .find(|choice| choice.provider == provider);
        let Some(standard) = standard else {
            let names: Vec<_> = self.writers().map(Provider::name).collect();
            let detail = format!("Text comes from {}; choose one of them.", names.join(", "));
            return Err(Problem::invalid_request(detail));
        };
        let Some(model) = model else {
            return Ok(standard.clone());
        };
        if !is_model_name(&model) {
            let detail = "A model's name has small letters, digits, dots and dashes, at most 64.";
            return Err(Problem::invalid_request(detail));
        }
        if !self.allowed.is_empty() && !self.allowed.contains(&model) {
            let detail = format!("Choose one of these models: {}.", self.allowed.join(", "));
            return Err(Problem::invalid_request(detail));
        }
        Ok(Choice { provider, model })
    }
}
