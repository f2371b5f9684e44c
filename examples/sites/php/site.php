<?php
// A site in PHP: users log in with a form or with qrlogin, and approve logins on a page of the site.
declare(strict_types=1);

$qrlogin = getenv('LOGIN_URL') ?: 'http://localhost:8080'; // `public_url` of qrlogin
$site = getenv('SITE_URL') ?: 'http://localhost:3000';     // the URL of this site
// `app_auth.hmac_secret` of qrlogin
$secret = getenv('APP_TOKEN_SECRET') ?: throw new Exception('set APP_TOKEN_SECRET');
$people = ['ann' => 'Ann Miller', 'bob' => 'Bob Jones', 'li' => '李雷']; // in your database, with hashes of passwords

[$method, $path] = [$_SERVER['REQUEST_METHOD'], parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)];
if ($path === '/login.js') return false; // php -S serves the file

$sockets = preg_replace('/^http/', 'ws', $qrlogin);
header("Content-Security-Policy: default-src 'none'; script-src 'self' $qrlogin; img-src data:; form-action 'self'; "
    . "base-uri 'none'; connect-src 'self' $qrlogin $sockets; frame-ancestors 'none'; require-trusted-types-for 'script'");
header('Cache-Control: no-store');
// Browsers send Origin with each POST.
if ($method === 'POST' && ($_SERVER['HTTP_ORIGIN'] ?? $site) !== $site) finish(403);
session_name('session');
session_set_cookie_params(['httponly' => true, 'samesite' => 'Lax', 'secure' => str_starts_with($site, 'https:')]);
session_cache_limiter('');
ini_set('session.use_strict_mode', '1');
if (isset($_COOKIE['session'])) session_start();
$user = $_SESSION['user'] ?? null;

function finish(int $status, ?string $location = null): never
{
    http_response_code($status);
    if ($location !== null) header("Location: $location", true, $status);
    exit;
}

/** Begins a session with a new id, against session fixation. */
function begin(array $user): void
{
    if (session_status() === PHP_SESSION_ACTIVE) session_regenerate_id(true);
    else session_start();
    $_SESSION = ['user' => $user];
}

function encode(string $bytes): string
{
    return sodium_bin2base64($bytes, SODIUM_BASE64_VARIANT_URLSAFE_NO_PADDING);
}

function decode(string $text): string
{
    return sodium_base642bin($text, SODIUM_BASE64_VARIANT_URLSAFE_NO_PADDING);
}

/** Returns an app token with these claims, signed with HS256. */
function sign(array $claims, string $secret): string
{
    $content = encode('{"alg":"HS256","typ":"JWT"}') . '.' . encode(json_encode($claims));
    return $content . '.' . encode(hash_hmac('sha256', $content, $secret, true));
}

/** Returns the user's id in a `web_token` that is valid and was not exchanged before, or null. */
function verify(string $token, string $qrlogin): ?string
{
    try {
        [$header, $claims, $signature] = array_map('decode', explode('.', $token)) + ['', '', ''];
        [$head, $body] = [json_decode($header), json_decode($claims)];
        if (($head->alg ?? '') !== 'EdDSA' || ($head->typ ?? '') !== 'qrlogin+jwt') return null;
        // A real site keeps the keys for some minutes, and fetches them again for an unknown `kid`.
        $keys = json_decode(file_get_contents("$qrlogin/.well-known/jwks.json") ?: '')->keys ?? [];
        $key = current(array_filter($keys, fn ($key) => $key->kid === $head->kid && $key->crv === 'Ed25519'));
        $content = substr($token, 0, strrpos($token, '.'));
        if (!$key || !sodium_crypto_sign_verify_detached($signature, $content, decode($key->x))) return null;
    } catch (SodiumException) {
        return null;
    }
    if ($body->iss !== $qrlogin || $body->aud !== $qrlogin || $body->exp <= time()) return null;
    // One file for each exchanged token, which only one request can create; in your database.
    $files = sys_get_temp_dir() . '/qrlogin-used-';
    foreach (glob("$files*") as $old) if (filemtime($old) < time() - 86400) unlink($old);
    return @fopen($files . hash('sha256', "$qrlogin $body->jti"), 'x') ? $body->sub : null;
}

switch ("$method $path") {
    case 'POST /login':
        $id = (string) ($_POST['user'] ?? '');
        if (!isset($people[$id])) finish(303, '/login-failed'); // check the password here
        begin(['id' => $id, 'name' => $people[$id], 'logged_in_at' => time()]);
        // Never redirects to another site: the approve page is the only other page.
        finish(303, preg_match('/^\/approve(#[\w-]*)?\z/', $_POST['next'] ?? '') ? $_POST['next'] : '/');
    case 'POST /logout':
        if ($user) session_destroy();
        setcookie('session', '', ['expires' => 1, 'path' => '/']);
        finish(303, '/');
    case 'POST /approve/token':
        if (($_SERVER['HTTP_X_QR_APPROVE'] ?? '') !== '1') finish(400);
        if (!$user) finish(401);
        $claims = ['sub' => $user['id'], 'name' => $user['name'], 'iat' => time(), 'exp' => time() + 60];
        if (isset($user['logged_in_at'])) $claims['auth_time'] = $user['logged_in_at'];
        header('Content-Type: application/json');
        exit(json_encode(['token' => sign($claims, $secret)]));
    case 'POST /session': // the browser with the code exchanges a `web_token` once for a session
        $id = verify(substr($_SERVER['HTTP_AUTHORIZATION'] ?? '', 7), $qrlogin);
        if ($id === null) finish(401);
        begin(['id' => $id, 'name' => $people[$id] ?? $id]);
        finish(204);
    case 'GET /approve': // the phone: `approve.url` of qrlogin is this page, with `#{code}`, which survives the redirect
        if (!$user) finish(303, '/login?next=/approve');
    case 'GET /':
    case 'GET /login':
    case 'GET /login-failed':
        require 'pages.php';
        exit;
    default:
        finish($path === '/approve/token' ? 405 : 404);
}
