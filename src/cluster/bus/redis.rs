use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{Client, ErrorKind, Pipeline, RedisError, ServerErrorKind};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::subscription::{MessageHandler, Subscription, pause, response, subscribe, until_probe};
use super::{Announcement, Bus, Listener, LocalBus};
use crate::cluster::node::{NodeName, Notification};
use crate::metrics::Metrics;

/// Maximum number of queued messages. Notifications beyond it are lost, and the other node finds the change in the
/// store.
const MAX_QUEUED: usize = 16 * 1024;
/// Maximum number of messages per pipeline.
const MAX_BATCH: usize = 256;

/// The setting `bus_url` is not a URL of Redis.
#[derive(Debug, Error)]
#[error("bus_url: {0}; write it as redis://USER:PASSWORD@HOST:PORT, or rediss:// for TLS")]
pub struct BusUrlError(String);

/// A bus over publish and subscribe of Redis or Valkey.
pub struct RedisBus {
    local: Arc<LocalBus>,
    node: NodeName,
    client: Client,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<QueuedMessage>,
    queued: Mutex<Option<mpsc::Receiver<QueuedMessage>>>,
    tasks: OnceLock<[AbortOnDropHandle<()>; 2]>,
}

/// A message in the queue of the publisher.
enum QueuedMessage {
    Notification(NodeName, Notification),
    Probe(Probe),
}

/// A message from this node to itself, see [`MessageHandler::probe`].
struct Probe {
    channel: String,
    text: String,
    /// Receives whether the message was sent.
    sent: oneshot::Sender<Result<(), String>>,
}

impl RedisBus {
    /// Makes a bus for this node, on the server at this URL. It connects when a listener is set.
    ///
    /// # Errors
    /// The URL is not one of Redis.
    pub fn new(url: &str, node: NodeName, metrics: Arc<Metrics>) -> Result<Self, BusUrlError> {
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        Ok(Self {
            local: Arc::default(),
            node,
            client: client(url)?,
            metrics,
            queue,
            queued: Mutex::new(Some(queued)),
            tasks: OnceLock::new(),
        })
    }

    /// Checks that [`RedisBus::new`] accepts a URL.
    ///
    /// # Errors
    /// The URL is not one of Redis.
    pub fn check_url(url: &str) -> Result<(), BusUrlError> {
        client(url).map(drop)
    }

    /// Queues a notification, or drops it if the queue is full.
    fn send(&self, to: &NodeName, notification: Notification) {
        if self.queue.try_send(QueuedMessage::Notification(to.clone(), notification)).is_err() {
            debug!(event = "hint lost", session = %notification.key);
        }
    }
}

fn client(url: &str) -> Result<Client, BusUrlError> {
    const ENCODING: &str = "in a password, write / as %2F, ? as %3F, # as %23 and @ as %40";
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let behind_host = rest.split_once(['/', '?', '#']).map_or("", |(_, behind)| behind);
    // What stands in front would be taken for the host, and looked up.
    if !scheme.contains("unix") && behind_host.contains('@') {
        return Err(BusUrlError(format!("has an @ behind its host; {ENCODING}")));
    }
    // The error text of the library may quote the password.
    Client::open(url).map_err(|error| BusUrlError(format!("not a URL of Redis ({:?}); {ENCODING}", error.kind())))
}

impl Bus for RedisBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        self.tasks.get_or_init(|| {
            let (client, name, queue) = (self.client.clone(), self.node.channel(), self.queue.clone());
            let channel = RedisChannel { client, name, queue };
            let queued = self.queued.lock().take();
            [
                subscribe(&self.local, listener, &self.metrics, channel),
                AbortOnDropHandle::new(tokio::spawn(publish_queued(self.client.clone(), queued))),
            ]
        });
    }

    fn announce(&self, announcement: &Announcement) {
        match &announcement.waits {
            Some(waits) if waits.node == self.node => self.local.announce(announcement),
            Some(waits) => self.send(&waits.node, announcement.notification(waits)),
            None => {}
        }
    }

    fn supersede(&self, before: &NodeName, notification: Notification) {
        self.send(before, notification);
    }
}

/// The channel of this node, to which the connection subscribes.
struct RedisChannel {
    client: Client,
    name: String,
    queue: mpsc::Sender<QueuedMessage>,
}

#[async_trait]
impl Subscription for RedisChannel {
    const SETTING: &'static str = "bus_url";

    async fn receive(&mut self, handler: &MessageHandler) -> String {
        let (sink, stream) = match response(self.client.get_async_pubsub()).await {
            Ok(connection) => connection.split(),
            Err(why) => return why,
        };
        tokio::select! {
            why = receive_messages(stream, handler) => why,
            why = subscribe_and_probe(sink, &self.name, &self.queue, handler) => why,
        }
    }
}

/// Passes messages on until the connection ends. Returns why it ended.
async fn receive_messages(mut stream: PubSubStream, handler: &MessageHandler) -> String {
    while let Some(message) = stream.next().await {
        handler.handle(&String::from_utf8_lossy(message.get_payload_bytes()));
    }
    "it closed the connection".to_owned()
}

/// Subscribes to the channel, and probes it until the connection fails. Returns why it failed.
async fn subscribe_and_probe(
    mut sink: PubSubSink,
    channel: &str,
    queue: &mpsc::Sender<QueuedMessage>,
    handler: &MessageHandler,
) -> String {
    if let Err(why) = response(sink.subscribe(channel)).await {
        return why;
    }
    loop {
        let publish = |text: String| async move {
            let (sent, is_sent) = oneshot::channel();
            let probe = Probe { channel: channel.to_owned(), text, sent };
            // While the server stops, either receiver may have been dropped. Then `is_sent` returns an error.
            drop(queue.send(QueuedMessage::Probe(probe)).await);
            is_sent.await.map_err(|error| error.to_string())?
        };
        handler.probe(publish).await;
        // A failed probe alone does not end the connection: if the server answers, notifications from other nodes may
        // still arrive.
        if let Err(why) = response(sink.ping::<redis::Value>()).await {
            return why;
        }
        until_probe().await;
    }
}

/// Publishes queued messages in batches. Messages that cannot be sent are dropped.
async fn publish_queued(client: Client, queued: Option<mpsc::Receiver<QueuedMessage>>) {
    let Some(mut queued) = queued else { return };
    let mut connection: Option<MultiplexedConnection> = None;
    let mut failures = 0;
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let mut publish = Pipeline::with_capacity(batch.len());
        let mut probes = Vec::new();
        for message in batch.drain(..) {
            let (channel, text) = match message {
                QueuedMessage::Notification(node, notification) => (node.channel(), notification.to_string()),
                QueuedMessage::Probe(Probe { channel, text, sent }) => {
                    probes.push(sent);
                    (channel, text)
                }
            };
            publish.cmd("PUBLISH").arg(channel).arg(text).ignore();
        }
        // An idle connection may have been closed by the server, so retry at once on a new one.
        let was_connected = connection.is_some();
        let mut sent = send(&client, &mut connection, &publish).await;
        if sent.is_err() && was_connected && connection.is_none() {
            sent = send(&client, &mut connection, &publish).await;
        }
        for probe in probes {
            // The receiver may have been dropped; ignore the error.
            let _ = probe.send(sent.clone());
        }
        match sent {
            Ok(()) => failures = 0,
            Err(why) => {
                debug!(event = "hints lost", why);
                pause(failures).await;
                failures += 1;
            }
        }
    }
}

/// Runs a pipeline. The connection is kept if the server answers that a command is not permitted.
async fn send(
    client: &Client,
    connection: &mut Option<MultiplexedConnection>,
    publish: &Pipeline,
) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => response(client.get_multiplexed_async_connection()).await?,
    };
    let published = response(async {
        match publish.query_async::<()>(&mut open).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(Err(first_refusal(error))),
            result => result.map(Ok),
        }
    });
    let published = published.await?;
    *connection = Some(open);
    published
}

/// Returns the first error of a pipeline. All commands are alike, so their errors are too.
fn first_refusal(error: RedisError) -> String {
    let text = error.to_string();
    let refusals = error.into_server_errors();
    refusals.as_ref().and_then(|refusals| refusals.first()).map_or(text, |(_, refusal)| refusal.to_string())
}
