// Package docs serves the OpenAPI document and Swagger UI, from which a person can call the service.
package docs

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"
)

// Path is where the page is.
const Path = "/docs/"

const documentPath = "/openapi.json"

//go:embed fitserve.swagger.json
var document []byte

//go:embed page
var page embed.FS

// assets are Swagger UI's, which `npm ci` has brought.
//
//go:embed node_modules/swagger-ui-dist/swagger-ui.css node_modules/swagger-ui-dist/swagger-ui-bundle.js
//go:embed node_modules/swagger-ui-dist/favicon-32x32.png
//go:embed node_modules/swagger-ui-dist/LICENSE node_modules/swagger-ui-dist/NOTICE
var assets embed.FS

// Serves says whether a path belongs to the page.
func Serves(path string) bool {
	return path == documentPath || path+"/" == Path || strings.HasPrefix(path, Path)
}

// Handler serves the page, its assets and the document.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+documentPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // an error means that the caller is gone
	})
	mux.Handle("GET "+Path, http.StripPrefix(Path, http.FileServerFS(sub(page, "page"))))
	mux.Handle("GET "+Path+"assets/", http.StripPrefix(Path+"assets/",
		http.FileServerFS(sub(assets, "node_modules/swagger-ui-dist"))))
	return withPolicy(mux)
}

// withPolicy lets the page load and call nothing but this gateway. Swagger UI sets styles by script.
func withPolicy(next http.Handler) http.Handler {
	const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		next.ServeHTTP(w, r)
	})
}

func sub(files embed.FS, directory string) fs.FS {
	inner, err := fs.Sub(files, directory)
	if err != nil { // only for a malformed name
		panic(err)
	}
	return inner
}
