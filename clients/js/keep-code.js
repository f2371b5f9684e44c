// @ts-check
// A script for the login page of a site: keeps the code that a redirect from the approve page has left in the URL.
import { keepCode } from "./core/kept-code.js";

keepCode();
