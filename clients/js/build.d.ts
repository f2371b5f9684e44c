// The build imports style sheets as text, minified.
declare module "*.css" {
  const text: string;
  export default text;
}

/** Hashes of the files in languages/ other than English, by tag, as in `integrity`. The build defines this. */
declare const LANGUAGE_HASHES: Record<string, string>;
