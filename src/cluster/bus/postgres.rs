use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::task::AbortOnDropHandle;

use super::subscription::{MessageHandler, Subscription, response, subscribe, until_probe};
use super::{Announcement, Bus, Listener, LocalBus};
use crate::cluster::node::{NodeName, Notification};
use crate::metrics::Metrics;
use crate::postgres::{MessageStream, Postgres};
use crate::telemetry::cause::explain;

/// A bus over `LISTEN` and `NOTIFY` of the Postgres that is the store. It only receives. The statements of
/// `PostgresStore` send the notifications, in the transaction of the change, so this bus
/// must be used together with that store.
pub struct PostgresBus {
    local: Arc<LocalBus>,
    node: NodeName,
    postgres: Postgres,
    metrics: Arc<Metrics>,
    subscription: OnceLock<AbortOnDropHandle<()>>,
}

impl PostgresBus {
    /// Makes a bus for this node. Its store must be set up to send notifications.
    #[must_use]
    pub fn new(postgres: Postgres, node: NodeName, metrics: Arc<Metrics>) -> Self {
        Self { local: Arc::default(), node, postgres, metrics, subscription: OnceLock::new() }
    }
}

impl Bus for PostgresBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        let channel = PostgresChannel { postgres: self.postgres.clone(), name: self.node.channel() };
        self.subscription.get_or_init(|| subscribe(&self.local, listener, &self.metrics, channel));
    }

    /// Passes changes that concern this node to its listener. Postgres has sent the notification of any other change
    /// with its transaction.
    fn announce(&self, announcement: &Announcement) {
        if announcement.waits.as_ref().is_some_and(|waits| waits.node == self.node) {
            self.local.announce(announcement);
        }
    }

    /// Does nothing, because the statement that attached the connection has sent the notification.
    fn supersede(&self, _before: &NodeName, _notification: Notification) {}
}

/// The channel of this node, to which the connection listens.
struct PostgresChannel {
    postgres: Postgres,
    name: String,
}

#[async_trait]
impl Subscription for PostgresChannel {
    const SETTING: &'static str = "database_url";

    async fn receive(&mut self, handler: &MessageHandler) -> String {
        let (client, messages) = match response(self.postgres.connect()).await {
            Ok(connection) => connection,
            Err(why) => return self.postgres.without_credentials(&why),
        };
        let why = tokio::select! {
            why = receive_messages(messages, handler) => why,
            why = listen_and_probe(&client, &self.name, handler) => why,
        };
        self.postgres.without_credentials(&why)
    }
}

/// Passes notifications on until the connection ends. Returns why it ended. Polling `messages` also drives the
/// connection.
async fn receive_messages(mut messages: MessageStream, handler: &MessageHandler) -> String {
    loop {
        match messages.next().await {
            Some(Ok(AsyncMessage::Notification(notification))) => handler.handle(notification.payload()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return explain(&error),
            None => return "it closed the connection".to_owned(),
        }
    }
}

/// Subscribes to the channel, and probes it until the connection fails. Returns why it failed.
async fn listen_and_probe(client: &Client, channel: &str, handler: &MessageHandler) -> String {
    if let Err(why) = response(client.batch_execute(&format!("LISTEN {channel}"))).await {
        return why;
    }
    loop {
        let notify =
            |text: String| async move { response(client.batch_execute(&format!("NOTIFY {channel}, '{text}'"))).await };
        handler.probe(notify).await;
        // A failed probe alone does not end the connection: if the server answers, notifications from other nodes may
        // still arrive.
        if let Err(why) = response(client.batch_execute("")).await {
            return why;
        }
        until_probe().await;
    }
}
