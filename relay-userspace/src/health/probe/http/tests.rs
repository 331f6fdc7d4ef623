//! Responses whole, in single bytes, and broken.

use super::*;

fn response(check: &HttpCheck, text: &str, piece: usize) -> Verdict {
    let mut response = Response::new(check);
    for bytes in text.as_bytes().chunks(piece) {
        if let Some(verdict) = response.take(bytes) {
            return verdict;
        }
    }
    response.end()
}

/// However it is cut, the verdict is the same.
#[track_caller]
fn assert_response(check: &HttpCheck, text: &str, expected: &Verdict) {
    for piece in [1, 2, 3, 7, 4096, usize::MAX] {
        assert_eq!(&response(check, text, piece), expected, "in pieces of {piece}");
    }
}

fn wants(body: &str) -> HttpCheck {
    HttpCheck { body: Some(body.into()), ..HttpCheck::default() }
}

#[test]
fn the_status_decides() {
    let check = HttpCheck::default();
    for (status, expected) in
        [(200, Ok(())), (204, Ok(())), (302, Ok(())), (404, Err(404)), (500, Err(500)), (199 + 201, Err(400))]
    {
        let text = format!("HTTP/1.1 {status} Word\r\nServer: x\r\n\r\n");
        assert_response(&check, &text, &expected.map_err(ProbeError::Status));
    }
    let only = HttpCheck { status: StatusRange(401..=401), ..HttpCheck::default() };
    assert_response(&only, "HTTP/1.0 401 \r\n\r\n", &Ok(()));
    assert_response(&only, "HTTP/1.1 200 OK\r\n\r\n", &Err(ProbeError::Status(200)));
}

#[test]
fn an_interim_response_is_not_the_answer() {
    let text = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n";
    assert_response(&HttpCheck::default(), text, &Err(ProbeError::Status(503)));
}

#[test]
fn the_body_is_searched_however_it_is_framed() {
    for text in [
        "HTTP/1.1 200 OK\r\n\r\nall is well here",
        "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nall is well here",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nall is w\r\n8;x=y\r\nell here\r\n0\r\n\r\n",
    ] {
        assert_response(&wants("is well"), text, &Ok(()));
        assert_response(&wants("is ill"), text, &Err(ProbeError::Body));
    }
}

#[test]
fn a_body_that_is_complete_needs_no_close() {
    let mut response = Response::new(&wants("ok"));
    assert_eq!(response.take(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"), None);
    assert_eq!(response.take(b"k"), Some(Ok(())));
    let mut response = Response::new(&wants("ok"));
    assert_eq!(response.take(b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nok\r"), None);
    assert_eq!(response.take(b"\n0\r\n"), Some(Ok(())));
}

#[test]
fn no_more_than_the_beginning_is_looked_at() {
    let text = |before: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}word{}", "x".repeat(before), "y".repeat(99));
    assert_eq!(response(&wants("word"), &text(LONGEST_BODY - 4), 5000), Ok(()));
    assert_eq!(response(&wants("word"), &text(LONGEST_BODY - 3), 5000), Err(ProbeError::Body));
}

#[test]
fn what_is_not_http_is_told() {
    let check = wants("x");
    for text in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 OK\r\nHalf: a head",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    ] {
        let verdict = response(&check, text, 7);
        assert!(matches!(verdict, Err(ProbeError::NotHttp(_))), "{text:?}: {verdict:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nLong: {}", "x".repeat(LONGEST_HEAD));
    assert!(matches!(response(&check, &endless, 4096), Err(ProbeError::NotHttp(_))));
    assert_eq!(response(&check, "", 1), Err(ProbeError::Closed));
}
