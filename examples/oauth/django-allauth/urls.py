"""The pages of the site. django-allauth has the pages for login and logout below "/accounts/"."""

from django.http import HttpResponse
from django.urls import include, path
from django.utils.html import format_html


def home(request):
    if not request.user.is_authenticated:
        return HttpResponse('<!doctype html><title>Site</title><a href="/accounts/login/">Log in</a>')
    return HttpResponse(
        format_html(
            '<!doctype html><title>Site</title><p>You are <b id="user">{}</b>, {}.</p>'
            '<a href="/accounts/logout/">Log out</a>',
            request.user.get_username(),
            request.user.email,
        )
    )


urlpatterns = [path("", home), path("accounts/", include("allauth.urls"))]
