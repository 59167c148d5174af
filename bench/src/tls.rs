//! TLS in front of the embedded services, with an authority made for this run.

use std::{path::PathBuf, sync::Arc};

use embedded::Listening;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use crate::stage::Error;

/// Signs for `localhost`; its certificate is in a file for whoever is to trust it.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    acceptor: TlsAcceptor,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = "an authority for one run";
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let server =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], private)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), authority.pem())?;
        Ok(Self {
            folder,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// The file with its certificate.
    pub(crate) fn file(&self) -> String {
        let file: PathBuf = self.folder.path().join("ca.pem");
        file.display().to_string()
    }

    /// An https address for what listens on `to`.
    pub(crate) async fn relay(&self, to: &Listening) -> Result<String, Error> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let host = format!("localhost:{}", listener.local_addr()?.port());
        to.expect(&host);
        let url = format!("https://{host}");
        let to = to.address;
        let acceptor = self.acceptor.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    client.set_nodelay(true)?;
                    let mut server = TcpStream::connect(to).await?;
                    server.set_nodelay(true)?;
                    let mut client = acceptor.accept(client).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Ok(url)
    }
}
