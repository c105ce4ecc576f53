//! Whom a controller acts as: each writes with the token of a ServiceAccount of its own, so that it
//! may do what its role says and no more.

use std::time::Duration;

use api_types::{
    Key,
    jiff::Timestamp,
    k8s::{
        authentication::{TokenRequest, TokenRequestSpec},
        core::ServiceAccount,
        meta::ObjectMeta,
    },
};
use client::{Client, Config, ConfigError, Error, LiveToken};
use daemon::clock;

const NAMESPACE: &str = "kube-system";
const LIFETIME: Duration = Duration::from_secs(3600);
/// A new token is asked for well before the old one ends, with time left to try again.
const RENEW_AFTER: Duration = Duration::from_secs(2400);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A ServiceAccount that a controller acts as.
pub struct Identity {
    /// May create ServiceAccounts and their tokens.
    issuer: Client,
    account: &'static str,
    token: LiveToken,
}

impl Identity {
    /// The identity and the client that acts as it, once [`Identity::renew`] has returned.
    pub fn new(issuer: Client, config: &Config, account: &'static str) -> Result<(Self, Client), ConfigError> {
        let token = LiveToken::default();
        let user_agent = format!("kube-controller-manager/{} coxswain/{account}", env!("CARGO_PKG_VERSION"));
        let client = Client::new(config.clone().with_token(token.clone()), &user_agent)?;
        Ok((Self { issuer, account, token }, client))
    }

    /// Gets a token, trying until there is one.
    pub async fn renew(&self) {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.issue().await {
            tracing::debug!(account = self.account, why = %error, "no token yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Renews the token in time, forever.
    pub async fn keep(self) {
        loop {
            clock::until(Timestamp::now() + RENEW_AFTER).await;
            self.renew().await;
        }
    }

    async fn issue(&self) -> Result<(), Error> {
        let key = Key::new(NAMESPACE, self.account);
        let seconds = i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let ask = || self.issuer.post_subresource::<ServiceAccount, _, TokenRequest>(&key, "token", &request);
        let answer = match ask().await {
            Err(error) if error.is_not_found() => {
                self.create().await?;
                ask().await?
            }
            answer => answer?,
        };
        self.token.set(answer.status.and_then(|status| status.token).unwrap_or_default());
        Ok(())
    }

    async fn create(&self) -> Result<(), Error> {
        let metadata = ObjectMeta {
            name: Some(self.account.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        match self.issuer.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
            Err(error) if error.is_already_exists() => Ok(()),
            created => created.map(drop),
        }
    }
}
