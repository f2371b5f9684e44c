// Posts the form of this page, which holds the response to an authorization request.
document.forms[0].submit();
