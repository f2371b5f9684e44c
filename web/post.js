// Posts the form of this page, which holds the response to an authorization request. The response is good for one use, so
// a user who comes back to this page goes further back.
const [{ type }] = performance.getEntriesByType("navigation");
if (type === "back_forward") history.back();
else document.forms[0].submit();
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) history.back();
});
