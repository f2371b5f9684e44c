//! The handlers, by caller: the browser, the phone, the demo's pages and the operator.

pub(super) mod approve;
pub(super) mod browser;
pub(super) mod client_js;
pub(super) mod demo;
pub(super) mod event_stream;
pub(super) mod jwks;
pub(super) mod oauth;
pub(super) mod openapi;
pub(super) mod ops;
pub(super) mod phone;
mod tags;
pub(super) mod websocket;
