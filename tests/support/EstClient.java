import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.util.Collections;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.est.CACertsResponse;
import org.bouncycastle.est.CSRRequestResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;

/** Drives Bouncy Castle's EST client. Its arguments are lines of standard input, so that no secret is in argv. */
public class EstClient {
    public static void main(String[] ignored) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        String server = in.readLine(), operation = in.readLine(), anchor = in.readLine(), answer = in.readLine();
        String commonName = in.readLine(), user = in.readLine(), keystore = in.readLine(), label = in.readLine();

        Security.addProvider(new BouncyCastleProvider());
        X509Certificate root;
        try (FileInputStream file = new FileInputStream(anchor)) {
            root = (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(file);
        }
        JsseESTServiceBuilder builder = new JsseESTServiceBuilder(
            server, JcaJceUtils.getCertPathTrustManager(Collections.singleton(new TrustAnchor(root, null)), null));
        builder.addCipherSuites(javax.net.ssl.SSLContext.getDefault().getSupportedSSLParameters().getCipherSuites());
        builder.withTLSVersion("TLS");
        builder.withHostNameAuthorizer((name, session) -> true);
        if (!label.isEmpty()) {
            builder.withLabel(label);
        }
        if (!keystore.isEmpty()) {
            KeyStore store = KeyStore.getInstance("PKCS12");
            try (FileInputStream file = new FileInputStream(keystore)) {
                store.load(file, "none".toCharArray());
            }
            KeyManagerFactory factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            factory.init(store, "none".toCharArray());
            for (KeyManager manager : factory.getKeyManagers()) {
                builder.withKeyManager(manager);
            }
        }
        ESTService service = builder.build();

        if (operation.equals("cacerts")) {
            CACertsResponse response = service.getCACerts();
            for (X509CertificateHolder holder : response.getCertificateStore().getMatches(null)) {
                System.out.println("CA " + holder.getSubject());
            }
            return;
        }
        if (operation.equals("csrattrs")) {
            CSRRequestResponse response = service.getCSRAttributes();
            System.out.println(response.hasAttributesResponse() ? response.getAttributesResponse().getRequirements() : "no attributes");
            return;
        }
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        KeyPair pair = generator.generateKeyPair();
        PKCS10CertificationRequest request = new JcaPKCS10CertificationRequestBuilder(
            new X500Name("CN=" + commonName), pair.getPublic()).build(new JcaContentSignerBuilder("SHA256withECDSA").build(pair.getPrivate()));
        int colon = user.indexOf(':');
        ESTAuth auth = colon < 0 ? null
            : new JcaHttpAuthBuilder(null, user.substring(0, colon), user.substring(colon + 1).toCharArray()).build();
        EnrollmentResponse response;
        if (operation.equals("serverkeygen")) {
            response = service.simpleEnrollWithServersideCreation(request, auth);
        } else {
            response = service.simpleEnroll(operation.equals("simplereenroll"), request, auth);
        }
        if (!response.isCompleted()) {
            System.out.println("waiting until " + response.getNotBefore());
            System.exit(3);
        }
        if (operation.equals("serverkeygen")) {
            System.out.println("key " + response.getPrivateKeyInfo().getPrivateKeyAlgorithm().getAlgorithm());
        }
        X509CertificateHolder holder = response.getStore().getMatches(null).iterator().next();
        Files.write(Path.of(answer), holder.getEncoded());
        System.out.println("certificate " + holder.getSubject());
    }
}
