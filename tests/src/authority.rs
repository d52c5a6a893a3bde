//! An authority that certifies servers and clients of this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use coordinator::Access;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use telemetry::tls::{ClientFiles, ClientTls, Protocol, ServerFiles, ServerTls};
use tempfile::TempDir;

/// An authority and the files of those that it has certified.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { folder: tempfile::tempdir()?, issuer };
        fs::write(authority.ca(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The file of its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for this machine and its key, in files of this name.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn certify(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<(PathBuf, PathBuf)> {
        let [certificate, key] = ["crt", "key"].map(|kind| self.folder.path().join(format!("{name}.{kind}")));
        self.certify_at(&certificate, &key, usage)?;
        Ok((certificate, key))
    }

    /// The same, in files of one's own.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn certify_at(&self, certificate: &Path, key: &Path, usage: ExtendedKeyUsagePurpose) -> Result<()> {
        self.certify_for(certificate, key, &[usage])
    }

    /// The same for several uses.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn certify_for(&self, certificate: &Path, key: &Path, usages: &[ExtendedKeyUsagePurpose]) -> Result<()> {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.extended_key_usages = usages.to_vec();
        let pair = KeyPair::generate()?;
        fs::write(certificate, params.signed_by(&pair, &self.issuer)?.pem())?;
        fs::write(key, pair.serialize_pem())?;
        Ok(())
    }

    /// The side of a server that it has certified.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn server(&self, protocol: Protocol, client_ca: Option<PathBuf>) -> Result<ServerTls> {
        let (certificate, key) = self.certify("server", ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(ServerTls::new(ServerFiles { certificate, key, client_ca }, protocol)?)
    }

    /// Of a client that believes this authority.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn believer(&self, identity: Option<(PathBuf, PathBuf)>) -> Result<Access> {
        let tls = Some(ClientTls::new(ClientFiles { ca: Some(self.ca()), identity })?);
        Ok(Access { tls, ..Access::default() })
    }
}
