//! TCP sessions: accept, connect, carry both ways.
