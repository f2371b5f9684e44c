//! Several nodes that share one store: their names, and the bus that carries notifications between them.

pub mod bus;
pub mod node;
