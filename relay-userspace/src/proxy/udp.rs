//! UDP sessions: one socket towards the backend for each client.
