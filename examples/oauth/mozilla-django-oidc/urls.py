"""The pages of the site."""

from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import include, path
from django.utils.html import format_html


def home(request):
    if not request.user.is_authenticated:
        return HttpResponse('<!doctype html><title>Site</title><a href="/oidc/authenticate/">Log in</a>')
    return HttpResponse(
        format_html(
            '<!doctype html><title>Site</title><p>You are <b id="user">{}</b>.</p><form method="post" '
            'action="/oidc/logout/"><input type="hidden" name="csrfmiddlewaretoken" value="{}">'
            "<button>Log out</button></form>",
            request.user.email,
            get_token(request),
        )
    )


urlpatterns = [path("", home), path("oidc/", include("mozilla_django_oidc.urls"))]
