//! The cryptography of tunnels, and which of it we like best.

use std::sync::{Arc, LazyLock};

use rustls::CipherSuite::{
    self, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// AES of 256 bits takes 14 rounds where 10 do, and comes with a hash that few processors have instructions for.
const LIGHT_WITH_AES: [CipherSuite; 3] = [
    TLS13_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];
const LIGHT_WITHOUT: [CipherSuite; 3] = [
    TLS13_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// All that is safe; what costs this processor the least comes first. The order is the client's to choose.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let light = if has_aes() { LIGHT_WITH_AES } else { LIGHT_WITHOUT };
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| !light.contains(&suite.suite()));
        provider.into()
    });
    PROVIDER.clone()
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_and_the_lightest_comes_first() {
        let (ours, all) = (provider(), aws_lc_rs::default_provider());
        assert_eq!(ours.cipher_suites.len(), all.cipher_suites.len());
        let light = if has_aes() { LIGHT_WITH_AES } else { LIGHT_WITHOUT };
        assert!(ours.cipher_suites[..3].iter().all(|suite| light.contains(&suite.suite())));
        assert!(all.cipher_suites.iter().all(|suite| ours.cipher_suites.contains(suite)));
    }
}
