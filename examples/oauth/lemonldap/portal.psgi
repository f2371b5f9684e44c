# The portal of LemonLDAP::NG and its files, as portal-nginx.conf of the Debian package serves them.
use Plack::Builder;
use Plack::App::File;
use Lemonldap::NG::Portal::Main;

my $files = '/usr/share/lemonldap-ng/portal/htdocs/static';
builder {
    mount '/static'     => Plack::App::File->new( root => $files )->to_app;
    mount '/javascript' => Plack::App::File->new( root => '/usr/share/javascript' )->to_app;
    mount '/'           => Lemonldap::NG::Portal::Main->run( {} );
};
