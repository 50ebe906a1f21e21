//! To what a verb applies: a rollout, a route, or everything.

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Usage;
use super::admin_client::{Client, in_path};
use super::answer::refused;
use super::output::harmless;

/// To what a verb applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// One rollout.
    Rollout(String),
    /// One route, by its name.
    Route(String),
    /// Everything that this process serves.
    Everything,
}

impl Scope {
    /// The rollout called `name`, or the only one there is, for a verb that also takes `--all`.
    pub(super) async fn rollout_or_only(name: Option<&str>, verb: &str, client: &Client) -> anyhow::Result<Self> {
        Self::named_or_only(name, verb, &["--all"], client).await
    }

    /// The rollout called `name`, or the only one there is. `others` can stand in place of a name.
    pub(super) async fn named_or_only(
        name: Option<&str>,
        verb: &str,
        others: &[&str],
        client: &Client,
    ) -> anyhow::Result<Self> {
        match name {
            Some(name) => Ok(Self::Rollout(name.to_owned())),
            None => only(verb, &rollouts(client).await?, others),
        }
    }

    /// Where the API has `verb` for it.
    pub(super) fn path(&self, verb: &str) -> String {
        match self {
            Self::Rollout(name) => format!("/api/v1/rollouts/{}/{verb}", in_path(name)),
            Self::Route(name) => format!("/api/v1/routes/{}/{verb}", in_path(name)),
            Self::Everything => format!("/api/v1/{verb}"),
        }
    }

    /// As it stands on the command line.
    pub(super) fn argument(&self) -> String {
        match self {
            Self::Rollout(name) => harmless(name),
            Self::Route(name) => format!("--route {}", harmless(name)),
            Self::Everything => "--all".to_owned(),
        }
    }

    /// As it stands in a sentence.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Rollout(name) => harmless(name),
            Self::Route(name) => format!("route {}", harmless(name)),
            Self::Everything => "everything".to_owned(),
        }
    }

    /// The scope of an audit entry: a rollout's name, `route:NAME`, or `*`.
    pub(super) fn of_entry(scope: &str) -> Self {
        match scope.strip_prefix("route:") {
            Some(route) => Self::Route(route.to_owned()),
            None if scope == "*" => Self::Everything,
            None => Self::Rollout(scope.to_owned()),
        }
    }

    /// The command that looks at it.
    pub(super) fn status(&self) -> String {
        match self {
            Self::Rollout(name) => format!("tidegate status {}", harmless(name)),
            Self::Route(_) | Self::Everything => "tidegate status".to_owned(),
        }
    }
}

/// The only one of `known`. A guess among several would be a rollback of the wrong one.
fn only(verb: &str, known: &[String], others: &[&str]) -> anyhow::Result<Scope> {
    match known {
        [one] => Ok(Scope::Rollout(one.clone())),
        [] => bail!("there is no rollout: the config has none"),
        several => {
            let names = several.iter().map(String::as_str).chain(others.iter().copied());
            let commands: String = names.map(|name| format!("  tidegate {verb} {name}\n")).collect();
            Err(Usage(format!("which rollout? One of\n\n{commands}")).into())
        }
    }
}

/// The names of all rollouts.
async fn rollouts(client: &Client) -> anyhow::Result<Vec<String>> {
    let reply = client.get("/api/v1/status").await?;
    if !reply.status.is_success() {
        return Err(refused(&reply, client));
    }
    let status: Value = serde_json::from_slice(&reply.body)
        .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))?;
    let rollouts = status["rollouts"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(rollouts.iter().filter_map(|rollout| rollout["name"].as_str().map(harmless)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_has_its_path_and_its_argument() {
        for (scope, path, argument) in [
            (Scope::Rollout("ledger".into()), "/api/v1/rollouts/ledger/hold", "ledger"),
            (Scope::Route("pay/x".into()), "/api/v1/routes/pay%2Fx/hold", "--route pay/x"),
            (Scope::Everything, "/api/v1/hold", "--all"),
        ] {
            assert_eq!((scope.path("hold").as_str(), scope.argument().as_str()), (path, argument));
        }
        for entry in ["ledger", "route:pay", "*"] {
            let scope = Scope::of_entry(entry);
            assert_eq!(matches!(scope, Scope::Everything), entry == "*", "{scope:?}");
        }
    }

    #[test]
    fn the_only_rollout_needs_no_name_and_none_of_several_is_guessed() {
        assert_eq!(only("rollback", &["ledger".into()], &["--all"]).unwrap(), Scope::Rollout("ledger".into()));
        let error = only("rollback", &["ledger".into(), "search".into()], &["--all"]).unwrap_err();
        assert!(error.is::<Usage>());
        let told = "which rollout? One of\n\n  tidegate rollback ledger\n  tidegate rollback search\n  \
                    tidegate rollback --all\n";
        assert_eq!(error.to_string(), told);
    }
}
