//! Records and their protection: the key, the nonces and the numbers of one direction.
//!
//! Payload goes from the caller's buffer to the record's place in one pass, and is taken out of a record where it is.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use super::fault::Cause;

/// A record's head: type, version, length.
pub const HEAD: usize = 5;
/// The most payload that one record holds.
pub const MOST: usize = 1 << 14;
/// What protection may add to it, of the older version that adds more.
pub const MOST_ADDED: usize = 2048;
const TAG: usize = 16;
/// The part of a nonce that records of TLS 1.2 with AES-GCM carry.
const EXPLICIT: usize = 8;

/// How long the record is that `data` begins with. `None`: not all of it is there.
pub fn length(data: &[u8]) -> Result<Option<usize>, Cause> {
    let Some(&[_, _, _, high, low]) = data.first_chunk() else { return Ok(None) };
    let body = usize::from(u16::from_be_bytes([high, low]));
    if body > MOST + MOST_ADDED {
        return Err(Cause::TooLongRecord);
    }
    Ok(Some(HEAD + body).filter(|length| *length <= data.len()))
}

/// How protection looks on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// TLS 1.3: the type inside, nonces from numbers.
    Inner,
    /// TLS 1.2 with AES-GCM: part of the nonce ahead of the payload.
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305: nonces from numbers.
    Outer,
}

/// One direction's.
pub struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// The next record's.
    number: u64,
    form: Form,
}

impl Keys {
    pub fn new(
        version: ProtocolVersion,
        (number, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Cause> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Cause::Internal("a cipher suite without a record layer".into())),
        };
        let form = match version {
            ProtocolVersion::TLSv1_3 => Form::Inner,
            _ if *algorithm == CHACHA20_POLY1305 => Form::Outer,
            _ => Form::Explicit,
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_unspecified| Cause::Internal("a key".into()))?;
        let iv =
            iv.as_ref().try_into().map_err(|_length| Cause::Internal("an initialisation vector".into()))?;
        Ok(Self { key: LessSafeKey::new(key), iv, number, form })
    }

    /// How many records these keys have protected.
    pub const fn used(&self) -> u64 {
        self.number
    }

    /// Appends a record with `payload`, at most [`MOST`] of it.
    pub fn seal(&mut self, kind: ContentType, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Cause> {
        let kind = u8::from(kind);
        let nonce = self.nonce();
        let (explicit, inner): (&[u8], &[u8]) = match self.form {
            Form::Inner => (&[], &[kind]),
            Form::Explicit => (&nonce[NONCE_LEN - EXPLICIT..], &[]),
            Form::Outer => (&[], &[]),
        };
        let outer = if self.form == Form::Inner { ContentType::ApplicationData.into() } else { kind };
        let body = explicit.len() + payload.len() + inner.len() + TAG;
        let head = head(outer, [3, 3], body)?;
        let aad = self.aad(head, payload.len())?;
        out.reserve(HEAD + body);
        out.extend_from_slice(&head);
        out.extend_from_slice(explicit);
        let at = out.len();
        out.resize(at + payload.len() + inner.len() + TAG, 0);
        let (sealed, tail) = out[at..].split_at_mut(payload.len());
        self.key
            .seal_out_of_place_scatter(Nonce::assume_unique_for_key(nonce), aad, payload, sealed, inner, tail)
            .map_err(|_unspecified| Cause::Internal("a record that cannot be sealed".into()))?;
        self.number += 1;
        Ok(())
    }

    /// Opens a whole record where it is. Returns what is in it and where.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Cause> {
        let Some((&mut head, body)) = record.split_first_chunk_mut::<HEAD>() else {
            return Err(Cause::BadRecord);
        };
        let mut nonce = self.nonce();
        let mut begin = HEAD;
        let mut sealed = body;
        if self.form == Form::Explicit {
            let (explicit, rest) = sealed.split_first_chunk_mut::<EXPLICIT>().ok_or(Cause::BadRecord)?;
            nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(explicit);
            begin += EXPLICIT;
            sealed = rest;
        }
        if self.form == Form::Inner && head[0] != u8::from(ContentType::ApplicationData) {
            return Err(Cause::Unexpected);
        }
        let length = sealed.len().checked_sub(TAG).ok_or(Cause::BadRecord)?;
        let aad = self.aad(head, length)?;
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), aad, sealed)
            .map_err(|_unspecified| Cause::BadRecord)?;
        self.number += 1;
        let (kind, length) = match self.form {
            Form::Inner => inner(plain)?,
            Form::Explicit | Form::Outer => (head[0], length),
        };
        if length > MOST {
            return Err(Cause::TooLongRecord);
        }
        Ok((kind.into(), begin..begin + length))
    }

    /// What is authenticated beside the payload.
    fn aad(&self, head: [u8; HEAD], payload: usize) -> Result<Aad<Additional>, Cause> {
        let [kind, major, minor, high, low] = head;
        let mut bytes = [0; 8 + HEAD];
        let length = if self.form == Form::Inner {
            // the version in the head is a remnant that nobody may look at
            bytes[..HEAD].copy_from_slice(&[kind, 3, 3, high, low]);
            HEAD
        } else {
            let (number, rest) = bytes.split_at_mut(8);
            number.copy_from_slice(&self.number.to_be_bytes());
            rest.copy_from_slice(&self::head(kind, [major, minor], payload)?);
            8 + HEAD
        };
        Ok(Aad::from(Additional { bytes, length }))
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        let number = self.number.to_be_bytes();
        for (byte, number) in nonce[NONCE_LEN - number.len()..].iter_mut().zip(number) {
            *byte ^= number;
        }
        nonce
    }
}

/// Of one of two lengths.
struct Additional {
    bytes: [u8; 8 + HEAD],
    length: usize,
}

impl AsRef<[u8]> for Additional {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn head(kind: u8, [major, minor]: [u8; 2], body: usize) -> Result<[u8; HEAD], Cause> {
    let [high, low] = u16::try_from(body).map_err(|_too_long| Cause::TooLongRecord)?.to_be_bytes();
    Ok([kind, major, minor, high, low])
}

/// The type behind TLS 1.3's content, ahead of the padding; and how long the content is.
fn inner(plain: &[u8]) -> Result<(u8, usize), Cause> {
    let length = plain.iter().rposition(|byte| *byte != 0).ok_or(Cause::Unexpected)?;
    Ok((plain[length], length))
}
