// BouncyCastle as the other hand of PS3.15 D.1: SignedData or DigestedData inside EnvelopedData, written and read.
//
//   CmsPeer write signed|digested FILE OUT RECIPIENTS(PEM) SIGNER(PKCS#12) PASSWORD-OF-PKCS12 CIPHER-OID [MEDIA-PASSWORD]
//   CmsPeer read FILE OUT key RECIPIENT(PKCS#12) PASSWORD-OF-PKCS12
//   CmsPeer read FILE OUT password MEDIA-PASSWORD
//
// `read` prints the declared content type and the kind of the inner structure.

import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.List;
import org.bouncycastle.asn1.ASN1Encoding;
import org.bouncycastle.asn1.ASN1EncodableVector;
import org.bouncycastle.asn1.ASN1Integer;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1Primitive;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.ASN1Set;
import org.bouncycastle.asn1.BEROctetString;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.DEROctetString;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.cms.CMSObjectIdentifiers;
import org.bouncycastle.asn1.cms.ContentInfo;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.cert.jcajce.JcaCertStore;
import org.bouncycastle.cms.*;
import org.bouncycastle.cms.jcajce.*;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;

public class CmsPeer {
    public static void main(String[] a) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        if (a[0].equals("write")) write(a); else read(a);
    }

    static KeyStore store(String file, String password) throws Exception {
        KeyStore keys = KeyStore.getInstance("PKCS12", "BC");
        try (FileInputStream in = new FileInputStream(file)) { keys.load(in, password.toCharArray()); }
        return keys;
    }

    static void write(String[] a) throws Exception {
        byte[] content = Files.readAllBytes(Path.of(a[2]));
        byte[] inner;
        ASN1ObjectIdentifier type;
        if (a[1].equals("signed")) {
            KeyStore keys = store(a[5], a[6]);
            String alias = keys.aliases().nextElement();
            PrivateKey key = (PrivateKey) keys.getKey(alias, a[6].toCharArray());
            X509Certificate certificate = (X509Certificate) keys.getCertificate(alias);
            CMSSignedDataGenerator generator = new CMSSignedDataGenerator();
            generator.addSignerInfoGenerator(
                new JcaSignerInfoGeneratorBuilder(new JcaDigestCalculatorProviderBuilder().setProvider("BC").build())
                    .build(new JcaContentSignerBuilder("SHA512withRSA").setProvider("BC").build(key), certificate));
            generator.addCertificates(new JcaCertStore(List.of(keys.getCertificateChain(alias))));
            CMSSignedData signed = generator.generate(new CMSProcessableByteArray(content), true);
            inner = signed.toASN1Structure().getContent().toASN1Primitive().getEncoded(ASN1Encoding.BER);
            type = PKCSObjectIdentifiers.signedData;
        } else {
            byte[] digest = java.security.MessageDigest.getInstance("SHA-384").digest(content);
            ASN1EncodableVector fields = new ASN1EncodableVector();
            fields.add(new ASN1Integer(0));
            fields.add(new AlgorithmIdentifier(NISTObjectIdentifiers.id_sha384, DERNull.INSTANCE));
            fields.add(new ContentInfo(CMSObjectIdentifiers.data, new BEROctetString(content)));
            fields.add(new DEROctetString(digest));
            inner = new DERSequence(fields).getEncoded(ASN1Encoding.BER);
            type = PKCSObjectIdentifiers.digestedData;
        }
        CMSEnvelopedDataGenerator generator = new CMSEnvelopedDataGenerator();
        try (FileInputStream in = new FileInputStream(a[4])) {
            for (Certificate each : CertificateFactory.getInstance("X.509").generateCertificates(in))
                generator.addRecipientInfoGenerator(new JceKeyTransRecipientInfoGenerator((X509Certificate) each).setProvider("BC"));
        }
        ASN1ObjectIdentifier cipher = new ASN1ObjectIdentifier(a[7]);
        if (a.length > 8)
            generator.addRecipientInfoGenerator(
                new JcePasswordRecipientInfoGenerator(CMSAlgorithm.AES256_CBC, a[8].toCharArray())
                    .setProvider("BC").setPRF(PasswordRecipient.PRF.HMacSHA256).setSaltAndIterationCount(new byte[20], 100000));
        CMSEnvelopedData enveloped = generator.generate(
            new CMSProcessableByteArray(type, inner), new JceCMSContentEncryptorBuilder(cipher).setProvider("BC").build());
        Files.write(Path.of(a[3]), enveloped.getEncoded());
    }

    static void read(String[] a) throws Exception {
        CMSEnvelopedData enveloped = new CMSEnvelopedData(Files.readAllBytes(Path.of(a[1])));
        Recipient recipient;
        if (a[3].equals("password")) {
            recipient = new JcePasswordEnvelopedRecipient(a[4].toCharArray()).setProvider("BC");
        } else {
            KeyStore keys = store(a[4], a[5]);
            PrivateKey key = (PrivateKey) keys.getKey(keys.aliases().nextElement(), a[5].toCharArray());
            recipient = new JceKeyTransEnvelopedRecipient(key).setProvider("BC");
        }
        byte[] inner = null;
        for (RecipientInformation each : enveloped.getRecipientInfos().getRecipients()) {
            if (each instanceof PasswordRecipientInformation != a[3].equals("password")) continue;
            CMSTypedStream opened = each.getContentStream(recipient);
            System.out.println(opened.getContentType());
            inner = opened.getContentStream().readAllBytes();
        }
        ASN1Sequence structure = (ASN1Sequence) ASN1Primitive.fromByteArray(inner);
        byte[] content;
        if (structure.getObjectAt(1) instanceof ASN1Set) {
            CMSSignedData signed = new CMSSignedData(new ContentInfo(PKCSObjectIdentifiers.signedData, structure));
            for (SignerInformation signer : signed.getSignerInfos().getSigners()) {
                var holder = signed.getCertificates().getMatches(signer.getSID()).iterator().next();
                var verifier = new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC")
                    .build((org.bouncycastle.cert.X509CertificateHolder) holder);
                if (!signer.verify(verifier)) throw new IllegalStateException("a signature does not hold");
            }
            System.out.println("signed");
            content = (byte[]) signed.getSignedContent().getContent();
        } else {
            CMSDigestedData digested = new CMSDigestedData(new ContentInfo(PKCSObjectIdentifiers.digestedData, structure));
            if (!digested.verify(new JcaDigestCalculatorProviderBuilder().setProvider("BC").build()))
                throw new IllegalStateException("the digest does not hold");
            System.out.println("digested");
            content = (byte[]) digested.getDigestedContent().getContent();
        }
        try (FileOutputStream out = new FileOutputStream(a[2])) { out.write(content); }
    }
}
