//! What rules' tunnels are made of: certificates and authorities, read once for all who name the same ones, and again
//! when their files change.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handshake::{Acceptor, Connector};
use super::purpose::Willing;
use super::tls::{ClientTls, ConfigFault, ServerTls};
use crate::rule::tunnel::{AcceptTunnel, ConnectTunnel, UdpOver};

/// The tunnels of all rules, by what the rules say.
pub struct Tunnels {
    state_dir: PathBuf,
    accepting: Mutex<Shelf<AcceptTunnel, Option<ServerTls>, Acceptor>>,
    connecting: Mutex<Shelf<ConnectTunnel, Option<ClientTls>, Connector>>,
}

/// What has been opened, and what could not be.
struct Shelf<K, M, T> {
    open: HashMap<Arc<K>, (M, Arc<T>)>,
    failed: HashMap<Arc<K>, ConfigFault>,
}

/// What a look at the files has found.
#[derive(Debug, Default)]
pub struct News {
    /// New sessions of some rule get something else than before.
    pub is_news: bool,
    /// Files that have changed and cannot be used: what they said before stays.
    pub faults: Vec<ConfigFault>,
}

impl Tunnels {
    /// `state_dir`: where certificates of our own are kept.
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir, accepting: Mutex::default(), connecting: Mutex::default() }
    }

    /// What takes a rule's clients in.
    pub fn acceptor(&self, tunnel: &Arc<AcceptTunnel>) -> Result<Arc<Acceptor>, ConfigFault> {
        lock(&self.accepting).get(tunnel, |tunnel| self.accepts(tunnel))
    }

    /// What opens tunnels to a rule's backends.
    pub fn connector(&self, tunnel: &Arc<ConnectTunnel>) -> Result<Arc<Connector>, ConfigFault> {
        lock(&self.connecting).get(tunnel, connects)
    }

    /// Looks at the files again, and forgets what no rule has any more. `waiting`: there are rules that do not work for
    /// want of their files.
    pub fn refresh(&self, waiting: bool) -> News {
        let mut news = News::default();
        if !waiting {
            lock(&self.accepting).failed.clear();
            lock(&self.connecting).failed.clear();
        }
        let accepts = |tunnel: &Arc<AcceptTunnel>| self.accepts(tunnel);
        let renew = |tunnel: &Arc<AcceptTunnel>, tls: &Option<ServerTls>| acceptor(tunnel, tls.as_ref());
        let look = |tls: &Option<ServerTls>| tls.as_ref().map_or(Ok(false), ServerTls::refresh);
        lock(&self.accepting).refresh(&mut news, look, renew, accepts);
        let renew = |tunnel: &Arc<ConnectTunnel>, tls: &Option<ClientTls>| connector(tunnel, tls.as_ref());
        let look = |tls: &Option<ClientTls>| tls.as_ref().map_or(Ok(false), ClientTls::refresh);
        lock(&self.connecting).refresh(&mut news, look, renew, connects);
        news
    }

    fn accepts(&self, tunnel: &Arc<AcceptTunnel>) -> Result<(Option<ServerTls>, Acceptor), ConfigFault> {
        let tls = tunnel.tls.as_ref().map(|tls| ServerTls::open(tls, &self.state_dir)).transpose()?;
        let acceptor = acceptor(tunnel, tls.as_ref());
        Ok((tls, acceptor))
    }
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

fn acceptor(tunnel: &AcceptTunnel, tls: Option<&ServerTls>) -> Acceptor {
    let fingerprint = tls.map(ServerTls::fingerprint);
    let willing = Willing { datagrams: tunnel.udp_over == Some(UdpOver::Tunnel), streams: true };
    Acceptor { tls: tls.map(ServerTls::config), ws: tunnel.ws.clone(), willing, fingerprint }
}

fn connects(tunnel: &Arc<ConnectTunnel>) -> Result<(Option<ClientTls>, Connector), ConfigFault> {
    let tls = tunnel.tls.as_ref().map(ClientTls::open).transpose()?;
    let connector = connector(tunnel, tls.as_ref());
    Ok((tls, connector))
}

fn connector(tunnel: &Arc<ConnectTunnel>, tls: Option<&ClientTls>) -> Connector {
    Connector::new(tls.map(ClientTls::config), tunnel.clone())
}

fn lock<T>(shelf: &Mutex<T>) -> MutexGuard<'_, T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, M, T> Default for Shelf<K, M, T> {
    fn default() -> Self {
        Self { open: HashMap::new(), failed: HashMap::new() }
    }
}

impl<K: Eq + Hash, M, T> Shelf<K, M, T> {
    fn get(
        &mut self,
        key: &Arc<K>,
        open: impl FnOnce(&Arc<K>) -> Result<(M, T), ConfigFault>,
    ) -> Result<Arc<T>, ConfigFault> {
        if let Some((_, made)) = self.open.get(key) {
            return Ok(made.clone());
        }
        match open(key) {
            Ok((material, made)) => {
                let made = Arc::new(made);
                self.failed.remove(key);
                self.open.insert(key.clone(), (material, made.clone()));
                Ok(made)
            }
            Err(fault) => {
                self.failed.insert(key.clone(), fault.clone());
                Err(fault)
            }
        }
    }

    fn refresh(
        &mut self,
        news: &mut News,
        look: impl Fn(&M) -> Result<bool, ConfigFault>,
        renew: impl Fn(&Arc<K>, &M) -> T,
        open: impl Fn(&Arc<K>) -> Result<(M, T), ConfigFault>,
    ) {
        self.open.retain(|_, (_, made)| Arc::strong_count(made) > 1);
        for (key, (material, made)) in &mut self.open {
            match look(material) {
                Ok(false) => {}
                Ok(true) => {
                    *made = Arc::new(renew(key, material));
                    news.is_news = true;
                }
                Err(fault) => news.faults.push(fault),
            }
        }
        // who waits for a file to be put right is told that it may go on, and asks again
        let before = self.failed.len();
        self.failed.retain(|key, fault| match open(key) {
            Ok(_) => false,
            Err(now) => {
                // another one is another reason for the rule not to work
                std::mem::replace(fault, now.clone()) == now
            }
        });
        news.is_news |= self.failed.len() < before;
    }
}
