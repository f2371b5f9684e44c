<?php
// The pages of the site. site.php includes this file.
$text = fn (string $text) => htmlspecialchars($text, ENT_QUOTES);
?>
<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Example site</title><main>
<?php if ($path === '/approve'): ?>
<script type="module" src="<?= $qrlogin ?>/js/qr-approve.js" crossorigin="anonymous"></script>
<qr-approve endpoint="<?= $qrlogin ?>" token-url="/approve/token" login-url="/login">
  <p slot="header">You are <?= $text($user['name']) ?>.</p>
</qr-approve>
<?php elseif ($path === '/login'): ?>
<h1>Log in</h1>
<script type="module" src="<?= $qrlogin ?>/js/keep-code.js" crossorigin="anonymous"></script>
<form method="post"><input type="hidden" name="next" value="<?= $text((string) ($_GET['next'] ?? '/')) ?>">
<p><label>User <select name="user">
<?php foreach (array_keys($people) as $id): ?><option><?= $text($id) ?></option><?php endforeach ?>
</select></label>
<p><label>Password <input name="password" type="password" placeholder="any, in this example"></label>
<p><button>Log in</button></form>
<?php elseif ($path === '/login-failed'): ?>
<h1>Login failed</h1><a href="/">Try again</a>
<?php elseif ($user): ?>
<h1>Hello, <span id="user"><?= $text($user['name']) ?></span></h1>
<form method="post" action="/logout"><button>Log out</button></form>
<?php else: ?>
<h1>Log in</h1>
<script type="module" src="<?= $qrlogin ?>/js/qr-login.js" crossorigin="anonymous"></script>
<qr-login endpoint="<?= $qrlogin ?>"></qr-login>
<script type="module" src="/login.js"></script>
<p><a href="/login">Log in without a phone</a></p>
<?php endif ?>
</main></html>
