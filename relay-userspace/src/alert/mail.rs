//! A message as a mail, handed to a server by SMTP (RFC 5321).

use std::fs;

use anyhow::Context as _;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::answer::Setback;
use super::channel::{Security, Smtp};
use super::escape::{Escape, Limit, cut};
use super::message::Message;

/// A line of a head has at most 998 bytes (RFC 5322 section 2.1.1), which encoding makes more of.
const SUBJECT: Limit = Limit::bytes(300);

/// Hands it over. The caller limits the time.
pub async fn send(smtp: &Smtp, message: &Message) -> Result<(), Setback> {
    let mail = mail(smtp, message).map_err(|error| Setback::Refused(format!("{error:#}")))?;
    let transport = transport(smtp, &message.host).map_err(|error| Setback::lost(format!("{error:#}")))?;
    match transport.send(mail).await {
        Ok(_) => Ok(()),
        // what the server does not want, and what it cannot do that we were told to do
        Err(error) if error.is_permanent() || error.is_client() => Err(Setback::Refused(words(&error))),
        Err(error) => Err(Setback::lost(words(&error))),
    }
}

fn words(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn mail(smtp: &Smtp, message: &Message) -> anyhow::Result<lettre::Message> {
    let subject = message.subject().replace(|letter: char| letter.is_control(), " ");
    let mut mail = lettre::Message::builder().from(smtp.from.clone());
    for to in &smtp.to {
        mail = mail.to(to.clone());
    }
    let id = format!(
        "<{}.{}@{}>",
        jiff::Timestamp::now().as_nanosecond(),
        std::process::id(),
        smtp.from.email.domain()
    );
    let mail = mail
        .message_id(Some(id))
        .subject(cut(&subject, Escape::None, SUBJECT))
        .header(ContentType::TEXT_PLAIN)
        .body(message.lines.join("\n") + "\n");
    mail.context("the mail cannot be written")
}

fn transport(smtp: &Smtp, own: &str) -> anyhow::Result<AsyncSmtpTransport<Tokio1Executor>> {
    let tls = match smtp.security {
        Security::Implicit => Tls::Wrapper(parameters(smtp)?),
        Security::Starttls => Tls::Required(parameters(smtp)?),
        Security::None => Tls::None,
    };
    let host = smtp.host.trim_start_matches('[').trim_end_matches(']');
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(smtp.port).tls(tls);
    if own.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) {
        builder = builder.hello_name(ClientId::Domain(own.to_owned()));
    }
    if let Some((user, password)) = &smtp.login {
        builder = builder.credentials(Credentials::new(user.to_string(), password.expose().to_owned()));
    }
    Ok(builder.build())
}

/// The authorities are those of the file, or those that browsers know.
fn parameters(smtp: &Smtp) -> anyhow::Result<TlsParameters> {
    let host = smtp.host.trim_start_matches('[').trim_end_matches(']');
    let builder = TlsParameters::builder(host.to_owned());
    let builder = match &smtp.ca {
        None => builder.certificate_store(CertificateStore::WebpkiRoots),
        Some(path) => {
            let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let certificate = Certificate::from_pem(&pem).with_context(|| path.display().to_string())?;
            builder.certificate_store(CertificateStore::None).add_root_certificate(certificate)
        }
    };
    Ok(builder.build_rustls()?)
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::message;
    use super::*;

    fn smtp() -> Smtp {
        Smtp {
            host: "mail.example.com".into(),
            port: 25,
            security: Security::None,
            login: None,
            from: "Relay <relay@example.com>".parse().expect("mailbox"),
            to: vec!["a@example.com".parse().expect("mailbox"), "b@example.com".parse().expect("mailbox")],
            ca: None,
        }
    }

    #[test]
    fn no_event_can_add_a_header() {
        let text = format!("香港 is down\r\nBcc: c@example.com\r\n\r\n{}", "x".repeat(2000));
        let mail = mail(&smtp(), &message(&[&text])).expect("mail").formatted();
        let mail = String::from_utf8(mail).expect("ASCII");
        let (head, _body) = mail.split_once("\r\n\r\n").expect("head and body");
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.contains("From: Relay <relay@example.com>\r\n"), "{head}");
        assert!(head.contains("To: a@example.com, b@example.com"), "{head}");
        assert!(head.contains("\r\nSubject: ") && head.contains("\r\nDate: "), "{head}");
        assert!(head.contains("@example.com>") && head.lines().all(|line| line.len() < 998), "{head}");
    }
}
